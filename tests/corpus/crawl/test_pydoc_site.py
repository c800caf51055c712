"""The documentation site as a visitor and as an operating system sees it."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urldefrag, urljoin
from urllib.robotparser import RobotFileParser

import pytest

from sishu.console import UserError
from sishu.corpus.crawl.pydoc_site import PydocSite

MODULES = ["csv", "json", "textwrap"]


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def walk(site: PydocSite) -> dict[str, str]:
    """Every page that can be reached by links; each must be there."""
    waiting, pages = ["index.html"], {}
    while waiting:
        path = waiting.pop()
        status, pages[path] = get(site.url + path)
        assert status == 200, path
        for link in re.findall(r'href="([^"]+)"', pages[path]):
            target = urldefrag(urljoin(site.url + path, link)).url
            relative = target.removeprefix(site.url)
            if target.startswith(site.url) and relative not in pages and relative not in waiting and relative:
                waiting.append(relative)
    return pages


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    with PydocSite(MODULES) as site:
        return walk(site)


def test_all_links_lead_to_the_modules_asked_for_topics_and_keywords(pages: dict[str, str]) -> None:
    modules = {path for path in pages if not path.startswith("topic?")}
    lists = {"index.html", "topics.html", "keywords.html"}
    json_parts = {f"json{part}.html" for part in ("", ".decoder", ".encoder", ".scanner", ".tool")}
    assert modules == lists | json_parts | {"csv.html", "textwrap.html"}
    assert len(pages) - len(modules) > 90
    assert "topic?key=LOOPING" in pages and "topic?key=while" in pages
    assert "Serialize" in pages["json.html"] and "JSONDecoder" in pages["json.decoder.html"]


def test_the_same_bytes_in_another_run_whatever_the_environment(
    pages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    with PydocSite([*MODULES, "os", "difflib"]) as site:
        assert get(site.url + "json.html")[1] == pages["json.html"]
        first = [get(f"{site.url}{name}.html")[1] for name in ("os", "difflib")]
    with PydocSite([*MODULES, "os", "difflib"]) as site:
        second = [get(f"{site.url}{name}.html")[1] for name in ("difflib", "os")][::-1]
    assert first == second
    assert "environ" in first[0] and "hunter2" not in first[0] and "somebody" not in first[0]
    assert "IS_CHARACTER_JUNK" in first[1] and "0x7f" not in first[1]


@pytest.mark.parametrize(
    "path", ["antigravity", "this", "test", "os", "_json", "json.__main__", "site", "nosuch"]
)
def test_excluded_modules_are_not_found(path: str) -> None:
    with PydocSite(MODULES) as site:
        assert get(f"{site.url}{path}.html")[0] == 404
        assert get(f"{site.url}topic?key={path}")[0] == 404


def test_robots_forbids_search_but_not_modules_of_like_names() -> None:
    with PydocSite(["getopt"]) as site:
        robots = get(site.url + "robots.txt")[1]
        parser = RobotFileParser()
        parser.parse(robots.splitlines())
        assert parser.can_fetch("sishu", site.url + "getopt.html")
        assert not parser.can_fetch("sishu", site.url + "get?key=os")
        assert not parser.can_fetch("sishu", site.url + "search?key=os")
        assert get(site.url)[1] == get(site.url + "index.html")[1]


def test_unknown_module_and_taken_port_are_named() -> None:
    with pytest.raises(UserError, match="nosuch"), PydocSite(["json", "nosuch"]):
        pass
    with PydocSite(["json"]) as site:
        port = int(site.url.split(":")[2].strip("/"))
        with pytest.raises(UserError, match="port"), PydocSite(["json"], port=port):
            pass


def test_modules_that_print_act_or_read_input_disturb_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    with PydocSite(["rlcompleter", "webbrowser", "pdb", "turtle", "sys"]) as site:
        status, page = get(site.url + "sys.html")
    assert status == 200 and "pydoc_server" not in page
    assert capfd.readouterr() == ("", "")


def gone(url: str) -> bool:
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_the_server_ends_with_the_block() -> None:
    with PydocSite(["json"]) as site:
        url = site.url
        assert get(url)[0] == 200
    assert gone(url) and site.url == ""


def test_the_server_dies_when_its_parent_is_killed() -> None:
    program = """
        import time
        from sishu.corpus.crawl.pydoc_site import PydocSite
        with PydocSite(["json"]) as site:
            print(site.url, flush=True)
            time.sleep(60)
    """
    source = str(Path(__file__).parents[3] / "src")
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=source),
    )
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert get(url)[0] == 200
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    assert gone(url)


def test_the_server_deletes_no_file_where_it_was_started(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    server = Path(__file__).parents[3] / "src" / "sishu" / "corpus" / "crawl" / "pydoc_server.py"
    for request in (
        b'{"modules": ["json"], "port": 0}\n',
        b'{"modules": ["nosuch"], "port": 0}\n',
        b"broken\n",
    ):
        subprocess.run(
            [sys.executable, "-S", "-P", "-B", str(server)],
            input=request,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
