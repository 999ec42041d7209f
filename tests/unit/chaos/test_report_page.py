"""The report page: whole HTML for any run, however odd, that asks nobody for anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.testing.checker import How, Mode, Piece, Seam
from meshd_chaos.records import FaultRecord, NotTested, Run, RunSet
from meshd_chaos.report import render
from meshd_chaos.report.markdown import measured
from meshd_chaos.report.violations import VIOLATIONS_MAX
from tests.unit.chaos.made_up_runs import a_run, an_answer, faults, many, went_on

VOID = {"meta"}


class Page(HTMLParser):
    """A page as a browser reads it; fails where tags do not match."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[tuple[str, str]] = set()
        self.elements: dict[str, int] = {}
        self.text = ""
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] = self.elements.get(tag, 0) + 1
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            self.attributes.add((tag, name))
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def page(*runs: Run) -> Page:
    return Page(render(RunSet(runs=runs)))


def test_a_page_of_an_eventful_run_is_whole_html_with_every_link_leading_somewhere() -> None:
    shown = page(a_run(many(600), faults=faults()), a_run(many(50, seed=3), scenario="pause"))
    assert len(shown.ids) == len(set(shown.ids))
    assert {link.removeprefix("#") for link in shown.links} <= set(shown.ids)
    assert "kill-holder" in shown.text
    assert "killed" in shown.text


def test_a_page_refers_to_nothing_outside_of_itself_and_runs_nothing() -> None:
    html = render(RunSet(runs=(a_run(many(300), faults=faults()),)))
    shown = Page(html)
    assert not shown.elements.keys() & {"script", "link", "img", "iframe", "object", "image", "use"}
    assert not {name for _, name in shown.attributes} & {"src", "onload", "onclick", "xlink:href"}
    assert not re.search(r"url\(|@import|https?://", html)
    assert all(link.startswith("#") for link in shown.links)
    assert "default-src 'none'" in html.replace("&#x27;", "'")


def test_the_same_runs_give_the_same_page_to_the_byte() -> None:
    runs = RunSet(runs=(a_run(many(200), faults=faults()),))
    assert render(runs) == render(runs)


def test_no_runs_and_a_run_without_requests_claim_nothing() -> None:
    assert "Nothing was run." in page().text
    empty = page(a_run([]))
    assert "No request was accepted, so nothing is shown." in empty.text
    assert "no fault was injected" in empty.text


def test_a_run_without_faults_does_not_say_that_it_withstood_any() -> None:
    assert "nothing was done to the mesh" in page(a_run([an_answer()])).text


def test_a_run_that_held_says_so_and_one_with_errors_does_not_say_that_all_were_answered() -> None:
    assert "once, whole, in order" in page(a_run([went_on()], faults=faults(1))).text
    failed = an_answer("r2", how=How.ERROR, cause="no_holder", pieces=(), finish=None)
    answers = [*(an_answer(f"a{number}") for number in range(200)), failed]
    shown = page(a_run(answers, faults=faults(1))).text
    assert "once, whole" not in shown
    assert "1 ended in an error" in shown


def test_an_excuse_of_what_was_never_accepted_takes_nothing_from_the_verdict() -> None:
    excused = {"how": How.BROKEN, "excuse": "entry-died", "pieces": (), "finish": None}
    unaccepted = an_answer("r2", accepted=False, **excused)
    text = page(a_run([went_on(), unaccepted], faults=faults(1))).text
    assert "once, whole, in order" in text
    assert "on the entry that died" in text
    accepted = an_answer("r3", **(excused | {"excuse": "no-holder"}))
    text = page(a_run([went_on(), accepted], faults=faults(1))).text
    assert "once, whole, in order" not in text
    assert "1 not answered, with an excuse" in text


def test_an_answer_in_one_body_that_went_on_is_listed_without_a_gap() -> None:
    seam = Seam(way="replay", at_s=3.0, gap_s=2.0)
    body = an_answer(mode=Mode.WHOLE, pieces=(Piece(3.0, "one two three"),), seams=(seam,))
    text = page(a_run([body], faults=faults(1))).text
    assert "none seen: not streamed" in text
    assert "The longest gaps" not in text


def test_what_anyone_named_shows_as_it_is_and_is_never_markup() -> None:
    evil = "<script>alert('x')</script>\"&\x00\x1b[31m\ud800"
    answer = an_answer(
        f"r1{evil}",
        entry=evil,
        model=evil,
        how=How.ERROR,
        cause=evil,
        excuse=evil,
        pieces=(),
        holders=(evil,),
        seams=(Seam(way=evil, at_s=2, gap_s=1),),
    )
    fault = FaultRecord(name=evil, nodes=(evil,), did=evil, parameters={evil: evil}, began_at_s=1.0)
    run = a_run(
        [answer],
        scenario=evil,
        about=evil,
        faults=[fault],
        not_tested=[NotTested(name=evil, why=evil)],
        more_violations=[f"lost: request r1{evil}: {evil}\n    {evil}"],
    )
    html = render(RunSet(runs=(run, run)))
    shown = Page(html)
    assert "script" not in shown.elements
    assert "<script>alert('x')</script>" in shown.text
    assert "\x00" not in html
    assert "\x1b" not in html
    html.encode()


def test_a_violation_links_to_the_bar_of_its_request_which_is_red() -> None:
    silent = an_answer("r7", how=How.SILENT, ended_at_s=None, pieces=(Piece(1.5, "one "),))
    html = render(RunSet(runs=(a_run([an_answer("r1"), silent], faults=faults(1)),)))
    assert 'lost: request <a href="#run1-1">r7</a> was accepted' in html
    assert '<g id="run1-1" class="bad">' in html
    assert "#run1-0" not in html
    assert "</a>: streamed, openai, tiny via anna; sent at 1.00 s, never ended" in html


def test_all_requests_of_a_key_with_two_answers_are_red() -> None:
    one = an_answer("r1", key="k")
    other = an_answer("r2", key="k", expected="four", pieces=(Piece(1.5, "four"),))
    html = render(RunSet(runs=(a_run([one, other]),)))
    assert html.count('class="bad"><title>') == 2
    assert 'key <a href="#run1-0">k</a> has 2 different answers' in html


def test_what_was_not_tested_is_listed_as_such_and_is_no_violation() -> None:
    skipped = [NotTested(name="clock-skew", why="This machine cannot.", at_s=at) for at in (1, 2)]
    shown = page(a_run([an_answer()], not_tested=skipped, faults=faults(1))).text
    assert "not tested" in shown
    assert "clock-skew (2 times) : This machine cannot." in shown
    assert "What must not be" not in shown


def test_a_run_on_a_machine_that_was_too_busy_says_so_everywhere() -> None:
    busy = RunSet(runs=(a_run([an_answer()], late_s=3.2),))
    for shown in (Page(render(busy)).text, measured(busy)):
        assert "too busy: the harness was up to 3.2 s late" in " ".join(shown.split())
    assert "too busy" not in page(a_run([an_answer()], late_s=0.1)).text


def test_a_run_says_how_to_have_it_again_as_it_was_asked_for() -> None:
    asked = a_run([], scenario="attic", given_as="my attic.toml", flags=("--nodes", "3"))
    assert (
        "meshd-chaos run --scenario &#x27;my attic.toml&#x27; --nodes 3"
        " --duration 60 --rate 20 --seed 7"
    ) in render(RunSet(runs=(asked,)))


def test_more_violations_than_a_person_reads_are_counted() -> None:
    many_bad = [f"wrong: the answer to r{number} differs" for number in range(VIOLATIONS_MAX + 5)]
    shown = page(a_run([an_answer()], more_violations=many_bad)).text
    assert "and 5 more" in shown


def test_twelve_thousand_requests_make_a_page_of_a_few_megabytes() -> None:
    runs = [a_run(many(4000, seed=seed), faults=faults(20)) for seed in range(3)]
    assert len(render(RunSet(runs=tuple(runs)))) < 3_000_000


def test_with_very_many_requests_quiet_bars_are_drawn_without_hover_texts() -> None:
    quiet = [an_answer(f"r{number}", sent_at_s=number / 100) for number in range(20_001)]
    html = render(RunSet(runs=(a_run(quiet),)))
    assert "r77:" not in html
    assert len(html) < 1_000_000


moments = st.floats(-5, 500) | st.just(float("inf"))
answers = st.builds(
    lambda name, how, at, took, pieces, seams: an_answer(
        name,
        how=how,
        sent_at_s=at,
        ended_at_s=None if took is None else at + took,
        pieces=[Piece(at + share, text) for share, text in pieces],
        seams=[Seam(way=way, at_s=when, gap_s=gap) for way, when, gap in seams],
        expected=None,
    ),
    st.text(),
    st.sampled_from(list(How)),
    st.floats(-5, 300),
    st.none() | st.floats(0, 100),
    st.lists(st.tuples(st.floats(0, 50), st.text()), max_size=3),
    st.lists(st.tuples(st.text(), moments, moments), max_size=3),
)
made_faults = st.builds(
    FaultRecord,
    name=st.text(),
    nodes=st.lists(st.text(), max_size=3).map(tuple),
    did=st.text(),
    began_at_s=moments,
    ended_at_s=st.none() | moments,
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(answers, max_size=5),
    st.lists(made_faults, max_size=5),
    st.lists(st.text(), max_size=3),
)
def test_whatever_a_run_left_behind_the_page_is_whole_and_has_finite_coordinates(
    left: list[object], done: list[FaultRecord], violations: list[str]
) -> None:
    run = a_run(left, faults=done, more_violations=violations)  # type: ignore[arg-type]
    html = render(RunSet(runs=(run,)))
    Page(html)
    drawn = " ".join(re.findall(r' (?:d|x|y|width|height)="([^"]*)"', html))
    assert not re.search("nan|inf", drawn)
