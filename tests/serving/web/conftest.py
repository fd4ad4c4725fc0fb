"""Chromium, driven by its DevTools protocol over two pipes, for which no library is needed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import urlencode

import pytest


class Browser:
    """Sends commands, and keeps the events that come between their answers."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb")
        self._numbers = count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]  # type: ignore[no-any-return]
            self.events.append(answer)

    def _read(self) -> bytes:
        content = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium has stopped"
            content += byte
        return bytes(content)

    def close(self) -> None:
        self._commands.close()
        self._answers.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("no chromium on this machine; on Debian: apt-get install chromium")
    folder = tmp_path_factory.mktemp("chromium")
    # Chromium reads commands from descriptor 3 and answers to 4; ours lie above both.
    pipes = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in (os.pipe(), os.pipe()) for end in (*pipe,)]
    theirs_in, our_out, our_in, theirs_out = pipes
    command = [
        "bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", binary, "--headless=new",
        "--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run", "--disable-gpu",
        "--disable-dev-shm-usage", "--disable-background-networking", "--lang=en", "about:blank",
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # which root cannot have
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=errors, stderr=errors)
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(our_out, our_in)
    try:
        yield browser
    finally:
        browser.call("Browser.close")
        process.wait()
        browser.close()


class Page:
    """A tab of its own, with nothing stored."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def open(self, address: str, **query: Any) -> Page:
        """Opens the page; with a query, waits until it has something to say."""
        return self.go(f"{address}/?{urlencode(query, doseq=True)}").settled() if query else self.go(address)

    def go(self, address: str) -> Page:
        self.call("Page.navigate", url=address)
        return self.until("document.readyState === 'complete'")

    def settled(self) -> Page:
        return self.until("status.textContent && !columns.hasAttribute('aria-busy')")

    def run(self, expression: str) -> Any:
        """What an expression is in the page; `status` and `columns` are elements of it, `all` the texts of some."""
        code = f"""(async () => {{
            const [status, columns] = ["status", "columns"].map((id) => document.getElementById(id));
            const all = (selector) => [...document.querySelectorAll(selector)].map((one) => one.innerText);
            return {expression};
        }})()"""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> Page:
        waited = f"""new Promise((done) => {{
            const end = Date.now() + 60000;
            const look = () => {{
                if ({condition}) done({{held: true}});
                else if (Date.now() < end) setTimeout(look, 20);
                else done({{held: false}});
            }};
            look();
        }})"""
        assert self.run(f"(await {waited}).held"), (condition, self.run("document.body.innerText"))
        return self

    def press_enter(self) -> None:
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def type(self, field: str, text: str) -> None:
        """Types into a field in place of what it holds, and presses Enter."""
        self.run(f"document.getElementById('{field}').select()")
        self.call("Input.insertText", text=text)
        self.press_enter()

    def events(self, method: str) -> list[dict[str, Any]]:
        found = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [event["params"] for event in found if event["method"] == method]

    def names(self, part: str) -> list[str]:
        return self.run(f"all('{part} .name')")  # type: ignore[no-any-return]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    browser.events.clear()
    page = Page(browser)
    yield page
    assert page.events("Runtime.exceptionThrown") == []
