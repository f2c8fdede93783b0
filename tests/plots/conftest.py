"""A browser for what is written as a page."""

from contextlib import contextmanager

import pytest

from plots import side_by_side


@pytest.fixture(scope="module")
def browser():
    """A Chromium. It is closed at the end, because no later test could start an event loop."""
    if not side_by_side.chromium():
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=side_by_side.chromium(), args=["--no-sandbox"]
        )


@contextmanager
def opened(browser, path, pair, width=1400, scheme="light"):
    """A page at a pair of scripts; afterwards: no error, and nothing from a network."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    requested = []
    page.on("request", lambda asked: requested.append(asked.url.partition("#")[0]))
    page.goto(f"{path.as_uri()}#{pair}")
    yield page
    page.close()
    assert not problems
    assert requested == [path.as_uri()]


@pytest.fixture
def page(browser, request):
    """The committed page at grpo.py and gspo.py, on one of the SCREENS or a wide one."""
    screen = getattr(request, "param", (1400, "light"))
    with opened(browser, side_by_side.PAGE, "grpo..gspo", *screen) as page:
        yield page


SCREENS = pytest.mark.parametrize(
    "page",
    [(width, scheme) for width in (1400, 800, 390) for scheme in ("light", "dark")],
    indirect=True,
    ids=lambda screen: "-".join(map(str, screen)),
)
