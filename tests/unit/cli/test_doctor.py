"""What `meshd doctor` finds, on machines that are as the test says and on this one."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path, PurePath

import pytest

from meshd.cli import checks, machine_checks
from meshd.config import BackendConfig, Config, GgufConfig
from meshd.control import Finding
from meshd.ids import Address
from meshd.machine.probes import Echo, Output, Probes, Seen
from meshd.paths import Places, resolve

from .conftest import Typed
from .daemon import FakeDaemon, node, report

HOME = PurePath("/home/ann")
PATHS = resolve(Places(HOME / "c", HOME / "s", HOME / "r", HOME / "l", HOME / "f"))


class Machine(Probes):
    """A machine in good health; the test makes it worse."""

    def __init__(self, platform: str = "linux", **environ: str) -> None:
        super().__init__(environ)
        self.platform = platform
        self.uid = 501
        self.python = "/opt/python3.12"
        self.time = 1_800_000_000.0
        self.files_limit = 20_000
        self.programs: set[str] = set()
        self.commands: dict[str, Output] = {}
        self.files: dict[PurePath, Seen] = {PATHS.data: Seen(501, 0o700, True)}
        self.free: int | None = 100 << 30
        self.taken: dict[tuple[int, bool], int] = {}
        self.web: dict[str, object] = {}
        self.errnos: dict[Address, int] = {}
        self.echo = Echo(True)

    def wall(self) -> float:
        return self.time

    def open_files(self) -> int:
        return self.files_limit

    def has_program(self, name: str) -> bool:
        return name in self.programs

    def has_path(self, path: str) -> bool:
        return path in self.programs

    def run(self, *command: str) -> Output | None:
        return self.commands.get(" ".join(command))

    def look(self, path: PurePath) -> Seen | None:
        return self.files.get(path)

    def names_in(self, folder: PurePath) -> list[str]:
        return [path.name for path in self.files if path.parent == folder]

    def free_bytes(self, path: PurePath) -> int | None:
        return self.free

    def port_problem(self, host: str, port: int, *, datagrams: bool) -> int:
        return self.taken.get((port, datagrams), 0)

    def holder_of_port(self, port: int) -> str:
        return "ollama, pid 41"

    def get_json(self, url: str) -> object:
        return self.web.get(url)

    def dial(self, address: Address) -> int:
        return self.errnos.get(address, 0)

    def multicast_echo(self) -> Echo:
        return self.echo


def one(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


# --- the machine


def test_the_clock() -> None:
    machine = Machine()
    assert one(machine_checks.clock(machine)).severity == "ok"
    machine.commands["timedatectl show --property=NTPSynchronized --value"] = Output(0, "no\n")
    assert one(machine_checks.clock(machine)).severity == "warn"
    machine.time = 0.0
    assert one(machine_checks.clock(machine)).severity == "fail"


@pytest.mark.parametrize(("mib", "severity"), [(10, "fail"), (500, "warn"), (5000, "ok")])
def test_the_room_that_is_left(mib: int, severity: str) -> None:
    machine = Machine()
    machine.free = mib << 20
    assert one(machine_checks.disk_free(PATHS, machine)).severity == severity


def test_few_open_files_matter_where_a_daemon_cannot_raise_them() -> None:
    machine = Machine()
    machine.files_limit = 256
    assert one(machine_checks.open_files(machine)).severity == "warn"
    machine.platform = "darwin"
    assert one(machine_checks.open_files(machine)).severity == "ok"


FIREWALL = machine_checks.SOCKETFILTERFW


@pytest.mark.parametrize(
    ("state", "block_all", "severity"),
    [
        (None, None, "ok"),
        ("Firewall is disabled. (State = 0)", None, "ok"),
        (
            "Firewall is enabled. (State = 1)",
            "Firewall has block all state set to disabled.",
            "warn",
        ),
        (
            "Firewall is enabled. (State = 1)",
            "Firewall has block all state set to enabled.",
            "fail",
        ),
        ("Firewall is enabled. (State = 2)", None, "fail"),
    ],
)
def test_the_firewall_of_macos(state: str | None, block_all: str | None, severity: str) -> None:
    machine = Machine("darwin")
    if state:
        machine.commands[f"{FIREWALL} --getglobalstate"] = Output(0, state)
    if block_all:
        machine.commands[f"{FIREWALL} --getblockall"] = Output(0, block_all)
    finding = one(machine_checks.firewall(11436, machine))
    assert finding.severity == severity
    if severity == "warn":
        assert f"sudo {FIREWALL} --unblockapp /opt/python3.12" in finding.remedy


def test_the_firewalls_of_linux() -> None:
    machine = Machine()
    assert one(machine_checks.firewall(11436, machine)).severity == "ok"
    rules = "Status: active\n\nTo         Action      From\n22/tcp     ALLOW       Anywhere\n"
    machine.commands["ufw status"] = Output(0, rules)
    finding = one(machine_checks.firewall(11436, machine))
    assert (finding.severity, finding.remedy) == ("warn", "sudo ufw allow 11436")
    machine.commands["ufw status"] = Output(0, rules + "11436      ALLOW       Anywhere\n")
    assert one(machine_checks.firewall(11436, machine)).severity == "ok"
    machine.commands["firewall-cmd --state"] = Output(0, "running\n")
    machine.commands["firewall-cmd --query-port=11436/tcp"] = Output(0, "yes\n")
    finding = one(machine_checks.firewall(11436, machine))
    assert "UDP port 11436" in finding.what
    machine.commands["firewall-cmd --query-port=11436/udp"] = Output(0, "yes\n")
    assert one(machine_checks.firewall(11436, machine)).severity == "ok"


PMSET = """Battery Power:
 lowpowermode         0
 sleep                1
 displaysleep         2
AC Power:
 displaysleep         10
 sleep                {minutes}
 standby              1
"""


@pytest.mark.parametrize(("minutes", "severity"), [("0", "ok"), ("10", "warn")])
def test_the_sleep_of_a_mac_on_mains(minutes: str, severity: str) -> None:
    machine = Machine("darwin")
    machine.commands["pmset -g custom"] = Output(0, PMSET.format(minutes=minutes))
    assert one(machine_checks.sleep(machine)).severity == severity
    assert list(machine_checks.sleep(Machine())) == []


def test_macos_that_keeps_meshd_from_the_local_network_is_recognised() -> None:
    machine = Machine("darwin")
    nodes = [node("attic", addresses=["10.0.0.2:11436"]), node("studio", state="self")]
    first, second = machine_checks.local_network(True, nodes, machine)
    assert (first.code, first.severity) == ("local-network", "ok")
    assert (second.code, second.severity) == ("mdns", "ok")
    machine.echo = Echo(False, 65)
    finding = one(machine_checks.local_network(True, nodes, machine))
    assert (finding.code, finding.severity) == ("local-network", "fail")
    assert "LaunchDaemon" in finding.remedy
    machine.echo = Echo(True)
    machine.errnos[Address("10.0.0.2", 11436)] = 65
    finding = one(machine_checks.local_network(False, nodes, machine))
    assert "attic at 10.0.0.2:11436" in finding.what


def test_a_node_that_is_down_is_not_taken_for_a_denial() -> None:
    machine = Machine("darwin")
    machine.errnos[Address("10.0.0.2", 11436)] = 61
    nodes = [node("attic", state="failed", addresses=["10.0.0.2:11436", "nonsense:x:y"])]
    assert [f.severity for f in machine_checks.local_network(False, nodes, machine)] == ["ok"]


@pytest.mark.parametrize(
    ("echo", "said"),
    [
        (Echo(True), "comes back"),
        (Echo(False), "did not come back"),
        (Echo(False, errno.EADDRINUSE), "another program has port 5353 for itself"),
        (Echo(False, errno.ENETUNREACH), "Network is unreachable"),
    ],
)
def test_multicast(echo: Echo, said: str) -> None:
    machine = Machine()
    machine.echo = echo
    assert said in one(machine_checks.local_network(True, [], machine)).what
    assert list(machine_checks.local_network(False, [], machine)) == []


# --- meshd


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (None, "ok"),
        (Seen(501, 0o700, True), "ok"),
        (Seen(501, 0o755, True), "ok"),
        (Seen(501, 0o777, True), "fail"),
        (Seen(502, 0o700, True), "fail"),
        (Seen(501, 0o600, False), "fail"),
    ],
)
def test_the_data_directory(seen: Seen | None, severity: str) -> None:
    machine = Machine()
    machine.files = {} if seen is None else {PATHS.data: seen}
    assert one(checks.data_dir(PATHS, machine)).severity == severity


def test_keys_that_others_can_read_are_named() -> None:
    machine = Machine()
    machine.files[PATHS.data] = Seen(501, 0o755, True)
    machine.files[PATHS.data / "node.key"] = Seen(501, 0o600, False)
    machine.files[PATHS.data / "members.json"] = Seen(501, 0o644, False)
    assert one(checks.data_dir(PATHS, machine)).severity == "ok"
    machine.files[PATHS.data / "ca.key"] = Seen(501, 0o644, False)
    finding = one(checks.data_dir(PATHS, machine))
    assert finding.severity == "fail"
    assert "others can read ca.key" in finding.what
    machine.files[PATHS.data] = Seen(501, 0o700, True)
    assert one(checks.data_dir(PATHS, machine)).severity == "ok", "nobody gets that far"


def test_ports_that_are_taken_are_named_with_their_holder() -> None:
    machine = Machine()
    assert one(checks.ports(Config(), machine)).severity == "ok"
    machine.taken = {(11435, False): errno.EADDRINUSE, (11436, True): errno.EADDRINUSE}
    first, second = checks.ports(Config(), machine)
    assert "port 11435 (TCP, for clients) is taken by ollama, pid 41" in first.what
    assert "port 11436 (UDP, for other nodes) is taken" in second.what
    machine.taken = {(80, False): errno.EACCES}
    assert "Permission denied" in one(checks.ports(Config(api_port=80), machine)).what
    machine.taken = {(0, False): errno.EADDRINUSE}
    assert one(checks.ports(Config(api_port=0, port=0), machine)).severity == "ok"


def test_engines() -> None:
    machine = Machine()
    none = one(checks.engines(Config(), None, machine))
    assert (none.code, none.severity) == ("engines", "warn")
    assert list(checks.engines(Config(detect=False), None, machine)) == []
    for config in (
        Config(backends=(BackendConfig("http://a:1"),)),
        Config(ggufs=(GgufConfig(PurePath("/m.gguf")),)),
    ):
        assert one(checks.engines(config, None, machine)).severity == "ok"
    assert one(checks.engines(Config(), report(), machine)).what == "there is ollama"
    machine.web["http://127.0.0.1:1234/v1/models"] = {"data": []}
    assert one(checks.engines(Config(), None, machine)).what == "there is LM Studio"
    machine.programs.add("ollama")
    first, _ = checks.engines(Config(), None, machine)
    assert (first.severity, first.remedy) == ("warn", "Start it: ollama serve")
    machine.web["http://127.0.0.1:11434/api/version"] = {"version": "0.9.3"}
    found = one(checks.engines(Config(), None, machine))
    assert (found.severity, found.what) == ("ok", "Ollama 0.9.3 answers at 127.0.0.1:11434")


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("", "127.0.0.1:11434"),
        ("0.0.0.0", "127.0.0.1:11434"),
        ("0.0.0.0:9999", "127.0.0.1:9999"),
        ("http://box:80/", "box:80"),
        ('"localhost:1"', "127.0.0.1:1"),
        ("[::1]:5", "[::1]:5"),
        ("box:notaport", "127.0.0.1:11434"),
    ],
)
def test_ollama_is_looked_for_where_its_variable_says(variable: str, address: str) -> None:
    machine = Machine(OLLAMA_HOST=variable)
    machine.web[f"http://{address}/api/version"] = {"version": "0.9.3"}
    findings = list(checks.engines(Config(), None, machine))
    assert findings[0].severity == "ok"
    assert (len(findings) == 2) is (address != "127.0.0.1:11434")


def test_versions_that_differ_are_named() -> None:
    nodes = [node("studio", state="self"), node("attic", version="0.2.0"), node("new", version="")]
    assert list(checks.versions("0.1.0", None, nodes)) == []
    assert one(checks.versions("0.1.0", report(), nodes[:1])).severity == "ok"
    assert "attic (0.2.0)" in one(checks.versions("0.1.0", report(), nodes)).what
    assert "this command is meshd 0.3.0" in next(checks.versions("0.3.0", report(), [])).what


# --- the command


def test_doctor_of_a_healthy_daemon_adds_what_that_knows(
    daemon: FakeDaemon, type_in: Typed, data_dir: Path
) -> None:
    data_dir.chmod(0o700)
    (data_dir / "config.toml").write_text("detect = false\n")
    daemon.answers["GET /control/doctor"] = [
        Finding("peer-udp", "warn", "no UDP to attic", "Open UDP port 11436 there."),
        Finding("clock", "ok", "the daemon's own word"),
    ]
    nodes = [node("studio", state="self"), node("attic")]
    daemon.answers["GET /control/status"] = report(nodes=nodes)
    daemon.answers["GET /control/nodes"] = nodes
    done = type_in("doctor", "--quick")
    assert done.exit_code == 0, done.output
    assert "daemon: meshd 0.1.0 runs (pid 4242) and answers" in done.stdout
    assert "warn peer-udp: no UDP to attic\n     Open UDP port 11436 there." in done.stdout
    assert done.stdout.count("clock:") == 1
    findings = json.loads(type_in("doctor", "--quick", "--json").stdout)
    assert {"code", "severity", "what", "remedy"} == set(findings[0])
    assert len({finding["code"] for finding in findings}) == len(findings)


def test_doctor_without_a_daemon_says_how_to_start_it(type_in: Typed, data_dir: Path) -> None:
    done = type_in("doctor", "--quick")
    assert done.exit_code == 1
    assert f"FAIL daemon: no meshd is running for {data_dir}" in done.stdout.replace("\n     ", " ")
    assert f"Start it: meshd start --data-dir {data_dir}" in done.stdout


def test_doctor_of_a_broken_config_goes_on(type_in: Typed, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "config.toml").write_text("prot = 1\n")
    done = type_in("doctor", "--quick")
    assert done.exit_code == 1
    assert 'unknown key "prot"' in done.stdout
    assert "disk-free" in done.stdout


# --- this machine, really asked


@pytest.fixture
def probes() -> Probes:
    return Probes(os.environ)


def test_a_taken_port_is_seen(probes: Probes) -> None:
    for kind, datagrams in ((socket.SOCK_STREAM, False), (socket.SOCK_DGRAM, True)):
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if not datagrams:
                taken.listen()
            port = taken.getsockname()[1]
            number = probes.port_problem("127.0.0.1", port, datagrams=datagrams)
            assert number == errno.EADDRINUSE
            assert f"pid {os.getpid()}" in probes.holder_of_port(port)
        assert probes.port_problem("127.0.0.1", port, datagrams=datagrams) == 0


def test_a_dial_tells_how_it_ended(probes: Probes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert probes.dial(Address("127.0.0.1", port)) == 0
    assert probes.dial(Address("127.0.0.1", port)) == errno.ECONNREFUSED


def test_programs_files_and_disks_are_asked_without_raising(probes: Probes, tmp_path: Path) -> None:
    said = probes.run("sh", "-c", "echo here; exit 3")
    assert said == Output(3, "here\n")
    assert probes.run("no-such-program-anywhere") is None
    assert probes.look(tmp_path / "none") is None
    seen = probes.look(tmp_path)
    assert seen is not None
    assert seen.is_folder
    assert probes.names_in(tmp_path / "none") == []
    assert (probes.free_bytes(tmp_path / "not" / "yet") or 0) > 0
    assert probes.get_json("http://127.0.0.1:1/") is None
    assert probes.has_program("sh")


def test_multicast_is_tried_for_real(probes: Probes) -> None:
    echo = probes.multicast_echo()
    if echo.errno:
        pytest.skip(f"no multicast here: {os.strerror(echo.errno)}")
    assert echo.heard
