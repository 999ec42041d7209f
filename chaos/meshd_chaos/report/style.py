"""The look of the page: light and dark, wide and narrow."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #faf9f7; --card: #ffffff; --ink: #22262a; --soft: #6a7178; --line: #e7e4df;
  --whole: #aebbc6; --recovered: #1f8f74; --repeated: #3f7fc4; --left: #c9c5bf;
  --untaken: #b7a9c9; --excused: #d29a1c; --failed: #e0702f; --bad: #d0202d;
  --fault: #7d6cc0; --good: #1f8f74; --link: #2b66a8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1b1f23; --ink: #e2e6e9; --soft: #98a2ab; --line: #2d3339;
    --whole: #52616e; --recovered: #3cb897; --repeated: #6aa5e0; --left: #4a4743;
    --untaken: #6c5f80; --excused: #d9a93f; --failed: #f08a55; --bad: #ff5a5f;
    --fault: #9c8de0; --good: #3cb897; --link: #82b4ec;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1200px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 26px; line-height: 1.25; font-weight: 650; margin: 0 0 6px; text-wrap: balance; }
h2 { font-size: 20px; font-weight: 650; margin: 0; }
h3 { font-size: 14px; font-weight: 650; margin: 28px 0 8px; }
p { margin: 0 0 8px; max-width: 75ch; }
a { color: var(--link); text-underline-offset: 2px; }
.soft { color: var(--soft); }
.scope { max-width: none; margin-bottom: 20px; }
.mark { display: inline-block; width: 11px; height: 11px; border-radius: 6px; margin-right: 9px; }
.mark.held { background: var(--good); }
.mark.broken { background: var(--bad); }
.mark.nothing { background: none; border: 2px solid var(--soft); }
section.run {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 24px; margin-top: 28px;
}
.numbers {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(92px, 1fr));
  gap: 1px; margin: 18px 0 20px; padding: 0;
  border: 1px solid var(--line); border-radius: 8px; overflow: hidden;
}
.numbers div { box-shadow: 0 0 0 1px var(--line); padding: 9px 12px; }
.numbers dt { color: var(--soft); font-size: 12.5px; }
.numbers dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums; }
p.busy { max-width: none; margin-top: 12px; padding: 9px 14px; border-radius: 6px;
  border: 1px solid var(--excused); }
.bad { color: var(--bad); font-weight: 650; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { padding: 5px 18px 5px 0; text-align: left; vertical-align: top; }
th { font-weight: 500; color: var(--soft); font-size: 12.5px; white-space: nowrap; }
td { border-top: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; }
td.name { white-space: nowrap; }
td.wide { min-width: 24ch; }
tr.sum td { font-weight: 600; }
.violations { margin: 0 0 18px; padding: 12px 16px; list-style: none;
  border-left: 3px solid var(--bad);
  background: color-mix(in srgb, var(--bad) 7%, transparent); border-radius: 0 6px 6px 0; }
.violations li + li { margin-top: 8px; }
.evidence { color: var(--soft); font-size: 13px; padding-left: 16px; overflow-wrap: anywhere; }
.untested { margin: 0; padding: 12px 16px; list-style: none; border: 1px dashed var(--soft);
  border-radius: 6px; }
.badge { font-size: 12px; border: 1px dashed var(--soft); border-radius: 4px; padding: 0 6px;
  color: var(--soft); margin-right: 8px; white-space: nowrap; }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { margin: 0; padding: 10px 14px; overflow-x: auto; background: var(--page);
  border: 1px solid var(--line); border-radius: 6px; }
summary { cursor: pointer; color: var(--link); margin-bottom: 8px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 10px 0 0; padding: 0;
  list-style: none; font-size: 13px; color: var(--soft); }
.legend i { display: inline-block; width: 18px; height: 6px; border-radius: 2px;
  margin-right: 7px; vertical-align: middle; background: var(--colour); }
.legend .gap { height: 0; background: none; border-top: 1.5px dotted var(--recovered); }
.legend .band { height: 12px; width: 12px; background: color-mix(in srgb, var(--fault) 30%,
  transparent); }

.timeline { display: block; width: 100%; min-width: 820px; height: auto; }
.timeline text { font: 10.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  fill: var(--ink); }
.timeline .lane { font-size: 11.5px; }
.timeline .faint, .timeline .tick { fill: var(--soft); }
.timeline .tick { text-anchor: middle; }
.timeline path { fill: none; }
.grid, .rule { stroke: var(--line); }
.rule { stroke-width: 0.7; }
.timeline .band { fill: var(--fault); fill-opacity: 0.12; }
.moment { stroke: var(--fault); stroke-opacity: 0.55; stroke-dasharray: 2 3; }
.healed { stroke: var(--good); stroke-width: 1.4; }
.timeline .healed-label { fill: var(--good); }
.fault rect { fill: var(--fault); stroke: var(--card); }
.timeline .fault text { fill: #fff; }
.timeline .fault .beside { fill: var(--ink); }
@media (prefers-color-scheme: dark) { .timeline .fault text { fill: #14171a; }
  .timeline .fault .beside { fill: var(--ink); } }
.whole { stroke: var(--whole); --colour: var(--whole); }
.recovered { stroke: var(--recovered); --colour: var(--recovered); }
.repeated { stroke: var(--repeated); --colour: var(--repeated); }
.left { stroke: var(--left); --colour: var(--left); }
.untaken, .unreached { stroke: var(--untaken); --colour: var(--untaken); }
.excused { stroke: var(--excused); --colour: var(--excused); }
.failed { stroke: var(--failed); --colour: var(--failed); }
.timeline .bad, .legend .bad { stroke: var(--bad); --colour: var(--bad); }
.legend .bad { color: inherit; font-weight: inherit; }
.wait { stroke-width: 1; stroke-dasharray: 1.5 1.5; }
.seam { stroke: var(--ink); stroke-width: 1.1; }
.endless { stroke-width: 1.2; }
.timeline .dots { stroke: var(--recovered); stroke-width: 5; stroke-linecap: round;
  stroke-opacity: 0.4; }
.p99 { stroke: var(--ink); stroke-width: 1.4; }
.timeline g:target .said, .timeline g:target .wait { stroke: var(--ink); stroke-width: 7; }
.timeline g[id] { scroll-margin: 140px; }
.timeline g:target { outline: 2px solid var(--ink); outline-offset: 3px; }
@media (max-width: 640px) {
  main { padding: 24px 14px 60px; }
  section.run { padding: 18px 14px; border-radius: 10px; }
  h1 { font-size: 22px; }
  .numbers { grid-template-columns: repeat(3, 1fr); }
}
"""
