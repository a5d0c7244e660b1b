"""A real browser: Chromium without a window, driven through its DevTools protocol."""

import json
import shutil
import socket
import subprocess
import time

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """A page in a browser. ``messages`` are what it logged and ``requests`` what it loaded since it was opened."""

    def __init__(self, profile):
        self._socket, other = socket.socketpair()
        self._socket.settimeout(60)
        # The protocol is spoken on file descriptors 3 (in) and 4 (out), JSON and a zero byte each way.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        command = ["bash", "-c", f'exec "$@" 3<&{other.fileno()} 4>&{other.fileno()}', "bash", EXECUTABLE, *options]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"], pass_fds=[other.fileno()], stderr=subprocess.DEVNULL
        )
        other.close()
        self._buffer, self._number, self._session = b"", 0, {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.messages, self.requests = [], []

    def close(self):
        self._session = {}
        self.send("Browser.close")
        self._process.wait(timeout=60)
        self._socket.close()

    def send(self, method, **parameters):
        """Give a command, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        self._socket.sendall(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._buffer:
            received = self._socket.recv(2**20)
            assert received, "the browser is gone"
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method, parameters = message.get("method"), message.get("params")
        if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.messages.append(parameters)
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        return message

    def open(self, path, address="", width=1280, scheme="light", media=""):
        """Load a page anew, and wait until its script has run."""
        self.messages, self.requests = [], []
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=path.as_uri() + address)
        while not self.run("document.readyState === 'complete' && location.protocol === 'file:'"):
            time.sleep(0.01)

    def run(self, expression):
        """Return the value of an expression, or what it promises."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, selector="main"):
        return self.run(f"document.querySelector({selector!r}).innerText")

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({selector!r})].map((element) => element.innerText.trim())")

    def _middle(self, selector):
        return self.run(f"""(() => {{
            const element = document.querySelector({selector!r});
            element.scrollIntoView({{ block: "center" }});
            const {{ x, y, width, height }} = element.getBoundingClientRect();
            return {{ x: x + width / 2, y: y + height / 2 }};
        }})()""")

    def hover(self, selector):
        self.send("Input.dispatchMouseEvent", type="mouseMoved", **self._middle(selector))

    def click(self, selector):
        at = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
        self.settle()

    def press(self, key, **parameters):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, **parameters)
        self.settle()

    def type(self, text):
        self.send("Input.insertText", text=text)
        self.settle()

    def choose(self, name, value):
        """Choose an option of a filter; the list of options that pops up is no part of the page."""
        self.run(f"""(() => {{
            const control = document.querySelector("[name={name}]");
            control.value = {value!r};
            control.dispatchEvent(new Event("input", {{ bubbles: true }}));
        }})()""")
        self.settle()

    def settle(self):
        """Wait until the page has handled what happened, and was painted."""
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
