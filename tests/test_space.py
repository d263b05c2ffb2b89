"""The app of `spaces/`: what it shows, from the pretrained representation in the tree, offline."""

import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import pytest
from launch import free_port

from hyperrep import KDESampler
from hyperrep.errors import UserError


SPACES = Path(__file__).parent.parent / "spaces"
PRETRAINED = SPACES.parent / "model_cards" / "hyperrep-digits"
pytestmark = pytest.mark.skipif(
    not (PRETRAINED / "model.safetensors").exists(), reason="the pretrained representation is not in this tree"
)


@pytest.fixture(scope="module")
def app():
    sys.path.insert(0, str(SPACES))
    try:
        import show

        yield show
    finally:
        sys.path.remove(str(SPACES))
        sys.modules.pop("show", None)


def accuracy(entry: str) -> float:
    return float(entry.split(" ± ")[0])


def test_networks_are_drawn_tested_and_trained_beside_random_starts(app):
    shown = app.show(app.REPRESENTATIONS[0], "kde", target=1.0, count=8, seed=0)
    assert len(shown.networks) == 8
    (epoch, generated, random), (_, trained, random_trained) = shown.table
    assert epoch == "0"
    assert accuracy(generated) > accuracy(random) + 40
    assert accuracy(trained) > accuracy(random_trained) + 10
    assert "times as far from the nearest training" in shown.about
    assert len(shown.figure.axes) >= 2


def test_what_is_asked_for_decides_which_training_networks_are_drawn_from(app):
    sampler = KDESampler.from_pretrained(PRETRAINED / "sampler")
    means = [app.aimed(sampler, "kde", target) for target in (0.0, 0.5, 1.0)]
    means = [aimed.scores[aimed.chosen].mean().item() for aimed in means]
    assert means == sorted(means)
    assert means[0] < means[2]
    with pytest.raises(UserError, match=r"target is 1\.5"):
        app.aimed(sampler, "kde", 1.5)
    assert "kde" in app.methods()
    assert not {"noise", "flow"} & set(app.methods())


def test_the_page_is_made_and_its_button_works(app):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'hyperrep[demo]'")
    import app as page

    try:
        assert page.build().fns
        figure, table, _, archive = page.draw(app.REPRESENTATIONS[0], "kde", 1.0, 4, 0)
        assert figure.axes
        assert len(table) == 2
        names = zipfile.ZipFile(archive).namelist()
        assert "index.json" in names
        assert "model-00003/model.safetensors" in names
    finally:
        sys.modules.pop("app", None)


@pytest.fixture
def address(tmp_path):
    """Of the app, started as a user starts it, with no way to the Hub."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'hyperrep[demo]'")
    port = free_port()
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(
            [sys.executable, SPACES / "app.py"], env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            deadline, there = monotonic() + 180, False
            while not there:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert monotonic() < deadline, (tmp_path / "log").read_text()
                with suppress(OSError):
                    there = urllib.request.urlopen(f"http://127.0.0.1:{port}").status == 200
                sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def browser(tmp_path):
    """Chromium without a screen, which asks nobody on the network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no Chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.add_argument("--window-size=1300,1500")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    for flag in ("disable-background-networking", "disable-component-update"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.mark.slow
def test_a_visitor_draws_networks(address, browser):
    """HYPERREP_SCREENSHOT names a file for the picture that stands in the docs."""
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 180)
    browser.get(address)
    (button,) = wait.until(lambda page: [b for b in page.find_elements("tag name", "button") if b.text == "Draw"])
    button.click()
    wait.until(lambda page: "times as far from the nearest" in page.find_element("tag name", "body").text)
    lines = browser.find_element("tag name", "body").text.splitlines()
    epoch, generated, random = lines[lines.index("0", lines.index("random starts: accuracy, %")) :][:3]
    assert epoch == "0"
    assert accuracy(generated) > accuracy(random) + 40
    assert wait.until(
        lambda page: page.find_elements("css selector", "a[download='samples.zip'], a[href*='samples.zip']")
    )
    assert wait.until(
        lambda page: page.find_elements("css selector", ".plot-container img, img[src^='data:image'], .matplotlib img")
    )
    if picture := os.environ.get("HYPERREP_SCREENSHOT"):
        browser.save_screenshot(picture)
