#!/usr/bin/env python3
"""A person's way through DonatelloAI in a real browser, with pictures.

    cargo run -p donatello --example studio                        in one window: prints an address
    systems/donatello/walk.py ADDRESS                              in another: people are chosen by name
    systems/donatello/walk.py ADDRESS --account EMAIL              or a stamp's edge: the password is read from the terminal
    systems/donatello/walk.py ADDRESS --account EMAIL --invitation LINK    sets a password by the link that `stamp user add` printed
    systems/donatello/walk.py ADDRESS --pictures docs/pictures     writes donatello.png, donatello-studio.png and so on

Signs in, has a prompt with personal data refused, one that may not leave Australia refused, makes an image and watches it come,
looks at history and spend, and (who may) at departments and audit. Each step says what it saw; the first that does not see it ends
with 1. Needs python3 and Chromium (`CHROMIUM` names another program), and nothing from a package index: the browser is spoken to over
a pipe.
"""
import argparse, base64, getpass, json, os, secrets, shutil, subprocess, sys, tempfile, time


class Browser:
    """Chromium without a screen, over its debugging pipe: JSON messages that end with a zero byte."""

    def __init__(self, program, width=1280, height=860):
        self.folder = tempfile.mkdtemp(prefix="walk")
        to_browser, self.out = os.pipe()
        self.back, from_browser = os.pipe()

        def ends():
            # The program expects to read at 3 and to write at 4; both may be taken already.
            high_in, high_out = os.dup(to_browser), os.dup(from_browser)
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        arguments = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars",
                     "--ignore-certificate-errors", f"--user-data-dir={self.folder}", f"--window-size={width},{height}"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")
        self.process = subprocess.Popen([program, *arguments], preexec_fn=ends, pass_fds=(3, 4),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.rest, self.session = 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.size(width, height)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                got = os.read(self.back, 1 << 20)
                if not got:
                    sys.exit("the browser ended")
                self.rest += got
            text, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]

    def size(self, width, height, phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def dark(self, on):
        value = "dark" if on else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def run(self, script):
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            sys.exit(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.settled()

    def settled(self):
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'", "the page is there")

    def until(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.run(condition):
                    return
            except SystemExit:
                pass
            time.sleep(0.1)
        page = self.run("document.body ? document.body.innerText.slice(0, 600) : ''")
        sys.exit(f"FAILED: not seen in {seconds} s: {what}\nat {self.run('location.href')}\n{page}")

    def text(self):
        return self.run("document.body.innerText")

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def end(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("address")
    options.add_argument("--account", help="an e-mail address at the stamp's own sign-in")
    options.add_argument("--invitation", help="the link with which the account gets a password")
    options.add_argument("--person", default="ola", help="whom to be in the example (ola)")
    options.add_argument("--pictures", help="a folder for pictures")
    asked = options.parse_args()
    base = asked.address.rstrip("/")
    invited = asked.account and asked.invitation
    password = secrets.token_urlsafe(24) if invited else getpass.getpass("password: ") if asked.account else ""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        sys.exit("there is no Chromium; install it, or name it in CHROMIUM")
    it = Browser(program)

    def picture(name):
        if asked.pictures:
            it.picture(os.path.join(asked.pictures, f"{name}.png"))

    def saw(condition, what, seconds=60):
        it.until(condition, what, seconds)
        print(f"saw: {what}", flush=True)

    def has(text):
        return f"document.body && document.body.innerText.includes({json.dumps(text)})"

    def send(prompt, model="auto"):
        it.go(base + "/")
        it.run(f"document.querySelector('#prompt').value = {json.dumps(prompt)};"
               f"document.querySelector('[name=model_provider]').value = {json.dumps(model)};"
               "document.querySelector('form[action=\"/generate\"] button.main').click()")

    try:
        if invited:
            it.go(asked.invitation)
            it.run(f"document.querySelector('[name=password]').value = document.querySelector('[name=again]').value = {json.dumps(password)};"
                   "document.querySelector('[name=again]').form.requestSubmit()")
            it.until("!document.querySelector('[name=again]')", "the password is set")
        it.go(base + "/sign-in?return=%2F")
        # Who has just set a password is signed in at the directory already.
        if asked.account and it.run("!!document.querySelector('[type=password]')"):
            it.until("document.querySelector('[type=password]')", "the directory asks for a password")
            it.run(f"document.querySelector('[name=email]').value = {json.dumps(asked.account)};"
                   f"document.querySelector('[type=password]').value = {json.dumps(password)};"
                   "document.querySelector('[type=password]').form.requestSubmit()")
        elif not asked.account:
            it.go(it.run("location.href") + "&person=" + asked.person)
        saw(has("What should it show?"), "the studio, signed in")
        send("a card for ann.archer@harbour.example")
        saw(has("Found: EMAIL"), "a prompt with personal data is refused")
        send("a red kite over the bay", "replicate")
        saw(has("region us"), "a model outside Australia is refused, and why")
        send("A sailing boat in the harbour at sunset, calm water, far hills, golden light")
        saw("location.pathname.startsWith('/generations/')", "the prompt is taken")
        picture("donatello-progress")
        saw("document.querySelector('.frame img') && document.querySelector('.frame img').complete", "the image, without reloading by hand", 120)
        saw(has("Why this model"), "the reasons of the choice")
        saw(has("no AI model"), "that no AI model drew it")
        picture("donatello")
        it.dark(True)
        picture("donatello-dark")
        it.dark(False)
        for prompt in ["a city skyline at night with neon", "a forest lake at dawn, mist", "an abstract dream of music in violet and gold"]:
            send(prompt)
            it.until("!!document.querySelector('.frame img')", "another image", 120)
        it.go(base + "/")
        saw("document.querySelectorAll('.tile img').length > 3", "the latest images in the studio")
        picture("donatello-studio")
        it.size(390, 844, True)
        picture("donatello-phone")
        it.size(1280, 860)
        it.go(base + "/history")
        saw("document.querySelectorAll('.tile').length > 3", "the history")
        it.go(base + "/spend")
        saw("!!document.querySelector('svg.meter')", "the department's budget as a bar")
        picture("donatello-spend")
        if "Audit" in it.run("document.querySelector('nav').innerText"):
            it.go(base + "/admin/audit")
            saw(has("The record is whole"), "the record of acts, whole")
            picture("donatello-audit")
        print("walked to the end")
    finally:
        it.end()


if __name__ == "__main__":
    main()
