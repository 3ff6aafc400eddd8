#!/usr/bin/env python3
"""Walks through Clinical MDR as a person does, through the pages: walk.py EDGE CA.pem FIRST-LINK [COOKIE-FILE]

FIRST-LINK is what the first `stamp up` prints for the administrator. Nothing but Python is needed. It ends with 0 if every step was
answered as it should be; COOKIE-FILE then has the session, for a browser that takes pictures.
"""
import html
import http.cookiejar
import json
import re
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

edge, ca, first = sys.argv[1:4]
context = ssl.create_default_context(cafile=ca)
jar = http.cookiejar.CookieJar()
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.HTTPCookieProcessor(jar))
PASSWORD = "walk-through-4711"


def go(url, form=None, want=200):
    data = urllib.parse.urlencode(form).encode() if form is not None else None
    try:
        with opener.open(urllib.request.Request(urllib.parse.urljoin(edge, url), data), timeout=60) as answer:
            status, text, at = answer.status, answer.read().decode(), answer.url
    except urllib.error.HTTPError as refused:
        status, text, at = refused.code, refused.read().decode(), refused.url
    if status != want:
        sys.exit(f"{url}: {status}, not {want}\n{text[:800]}")
    return text, at


def field(text, name):
    found = re.search(r'name="%s"[^>]*value="([^"]*)"' % name, text) or re.search(r'value="([^"]*)"[^>]*name="%s"' % name, text)
    return html.unescape(found.group(1)) if found else ""


def step(what):
    print(f"ok  {what}")


text, at = go(first)
if field(text, "token"):
    go(urllib.parse.urljoin(at, "/first"), {"form": field(text, "form"), "token": field(text, "token"), "password": PASSWORD, "again": PASSWORD})
text, at = go("/")
# Who has just set a password is signed in at the directory already, and is not asked again.
if not at.startswith(edge):
    action = re.search(r'<form[^>]*action="([^"]*)"[^>]*>(?:(?!</form>).)*type="password"', text, re.S)
    form = {"form": field(text, "form"), "authorize": field(text, "authorize"), "email": "admin@localhost", "password": PASSWORD}
    text, at = go(urllib.parse.urljoin(at, html.unescape(action.group(1)) if action else at), form)
assert at.startswith(edge) and "Library" in text, at
step("signed in by the directory, and led to the library")
csrf = field(text, "_csrf")


def act(path, want=200, **form):
    return go(path, {"_csrf": csrf, **form}, want)


def make(kind, name, definition="", code=""):
    text, at = act("/library", kind=kind, name=name, definition=definition, code=code, why="walk")
    uid = urllib.parse.unquote(at.rsplit("/", 1)[1])
    act(f"/library/{uid}/act", act="approve", expected="0.1", why="agreed")
    return uid


text, at = act("/library", kind="activity", name="Body weight", definition="Weight of the body", code="WEIGHT", why="needed by the first study")
weight = urllib.parse.unquote(at.rsplit("/", 1)[1])
act(f"/library/{weight}/act", act="edit", expected="0.1", name="Body weight", definition="Weight of the body in kilograms", code="WEIGHT", why="the unit was missing")
text, _ = act(f"/library/{weight}/act", 409, act="edit", expected="0.1", name="Body mass", definition="", code="", why="too late")
assert "You saw version 0.1" in text
step("a draft was changed; a second editor who saw the version of before is told so")
act(f"/library/{weight}/act", act="approve", expected="0.2", why="agreed in the board")
act(f"/library/{weight}/act", act="new-version", expected="1.0", why="a better text")
act(f"/library/{weight}/act", act="edit", expected="1.1", name="Body weight", definition="Weight of the body in kilograms, without shoes", code="WEIGHT", why="measured the same everywhere")
text, _ = go(f"/library/{weight}?from=1.0&to=1.2")
assert "without shoes" in text and "<ins>" in text and "the unit was missing" in text
act(f"/library/{weight}/act", act="approve", expected="1.2", why="agreed")
step("versions 0.1, 0.2, 1.0, 1.1, 1.2, 2.0 with author and reason; the difference of two is shown")
act("/library", 400, kind="activity", name="", definition="", code="not a code", why="")
act("/library", 400, kind="activity", name="body WEIGHT", definition="", code="", why="twice")
go("/library", {"_csrf": "of somebody else", "kind": "term", "name": "x", "why": "y"}, 403)
step("wrong fields, a name that is taken and a form of another session are refused")
objective = make("objective", "To show that the treatment lowers HbA1c")
blood, ecg, consent = make("activity", "Blood sample", code="LB"), make("activity", "ECG", code="EG"), make("activity", "Informed consent")
make("visit-type", "Screening"), make("unit", "Kilogram", code="kg"), make("endpoint", "Change of HbA1c from baseline to week 26")

_, at = act("/studies", number="0042", acronym="WALK", title="Once-weekly treatment of type 2 diabetes", why="begun")
study = urllib.parse.unquote(at.rsplit("/", 1)[1])


def change(act_, want=200, **form):
    text, _ = go(f"/studies/{study}")
    revision = re.search(r"revision (\d+)", text).group(1)
    return act(f"/studies/{study}/act", want, act=act_, expected=revision, **{"why": "planned", **form})[0]


change("objective", item=objective, level="primary")
for item in (consent, weight, blood, ecg):
    change("activity", item=item)
for name in ("Screening", "Treatment", "Follow-up"):
    change("epoch", name=name)
text = change("visit", epoch=f"{study}_E1", name="Visit 1", day="-14")
for epoch, name, day in (("E2", "Visit 2", "1"), ("E2", "Visit 3", "29"), ("E2", "Visit 4", "183"), ("E3", "Visit 5", "190")):
    text = change("visit", epoch=f"{study}_{epoch}", name=name, day=day)
visits = sorted(set(re.findall(r'name="visit" value="([^"]+)"', text)), key=lambda v: int(v.rsplit("_V", 1)[1]))
assert len(visits) == 5, visits
crosses = [(consent, 0), (weight, 0), (weight, 1), (weight, 3), (blood, 0), (blood, 2), (blood, 3), (ecg, 0), (ecg, 4)]
for item, visit in crosses:
    change("schedule", activity=item, visit=visits[visit], on="true")
table, _ = go(f"/export/studies/{study}/schedule.csv")
assert table.count("X") == len(crosses) and "Informed consent,X,,,," in table, table
grid = json.loads(go(f"/export/studies/{study}/schedule.json")[0])
assert [c["day"] for c in grid["columns"]] == [-14, 1, 29, 183, 190]
step("a study with objective, activities, epochs, visits and its schedule; the export has the same grid as CSV and JSON")
change("lock", why="agreed by all")
act(f"/studies/{study}/act", 409, act="schedule", expected="1", activity=ecg, visit=visits[0], on="false")
change("schedule", 409, activity=ecg, visit=visits[0], on="false")
text = change("unlock", why="a visit is missing")
assert "agreed by all" in text and "a visit is missing" in text
step("locked, it is not changed; unlocked with a reason; all of it in the audit trail")
if len(sys.argv) > 4:
    with open(sys.argv[4], "w", encoding="utf-8") as file:
        json.dump([{"name": c.name, "value": c.value} for c in jar if c.name == "__Host-session" and c.domain == urllib.parse.urlsplit(edge).hostname], file)
