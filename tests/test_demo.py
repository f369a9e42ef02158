"""The page, in a real browser: photos are dropped on it, and it says what `predict` says."""

import base64
import http.client
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.sources import sample

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared/faces/140k"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
TITLES = {"real": "Looks real", "fake": "Looks generated", "uncertain": "Uncertain"}
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)), transfer = new DataTransfer()
transfer.items.add(new File([bytes], arguments[1], { type: arguments[2] }))
document.getElementById("status").textContent = ""
document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }))
"""


@pytest.fixture(scope="module")
def address(bright):
    """The page's address, served by the command."""
    command = [sys.executable, "-m", "stages.demo", "--port", "0"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
    with subprocess.Popen(command, cwd=bright, env=environment, stdout=subprocess.PIPE, text=True) as server:
        yield re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline()).group()
        server.terminate()


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        yield browser


@pytest.fixture
def drop(browser, address):
    """A function that drops bytes on the page, waits, and returns its status and the cards' texts."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)

    def drop(data, name="photo.png", kind="image/png"):
        browser.execute_script(DROP, base64.b64encode(data).decode(), name, kind)
        status = browser.find_element(By.ID, "status")
        WebDriverWait(browser, 60).until(lambda _: status.text not in ("", "Looking…"))
        return status.text, [card.text for card in browser.find_elements(By.TAG_NAME, "article")]

    return drop


def predicted(folder, path):
    """What the command line says of a photo with one face."""
    result = subprocess.run(
        [sys.executable, "-m", "stages.predict", str(path), "--format", "json"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    [row] = json.loads(result.stdout)
    return row


@pytest.mark.parametrize("label", [0, 1], ids=["real", "fake"])
def test_a_dropped_face_of_the_sample_is_answered_as_on_the_command_line(drop, bright, tmp_path, label):
    path = tmp_path / "face.jpg"
    path.write_bytes(sample.face(label, 0, 64, 20))
    status, [card] = drop(path.read_bytes(), "face.jpg", "image/jpeg")
    row = predicted(bright, path)
    assert status == "One face."
    assert TITLES[row["verdict"]] in card
    assert f"{100 * row['probability']:.0f} % likely to be generated" in card


def test_of_a_detector_that_is_worth_nothing_for_photographs_no_verdict_is_shown(drop, browser, png):
    browser.execute_script("WORTHLESS = true")
    _, [card] = drop(png(np.full((64, 64, 3), 255, np.uint8)))
    assert card.startswith("No answer")
    assert "It would say “looks generated”" in card
    assert "% likely" not in card


def test_bright_and_dark_get_opposite_answers_with_pictures(drop, browser, png):
    _, [fake] = drop(png(np.full((64, 64, 3), 255, np.uint8)))
    assert "Looks generated" in fake
    _, [real] = drop(png(np.zeros((64, 64, 3), np.uint8)))
    assert "Looks real" in real
    widths = browser.execute_script("return [...document.querySelectorAll('article img')].map(i => i.naturalWidth)")
    assert widths == [64, 64]


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_the_face_in_a_dropped_photograph_is_found(drop, kind):
    photos = sorted((CORPUS / kind).glob("*.jpg"))
    if not photos:
        pytest.skip(f"no photographs at {CORPUS}")
    status, cards = drop(photos[0].read_bytes(), "face.jpg", "image/jpeg")
    assert (status, len(cards)) == ("One face.", 1)


def test_a_crowd_gets_numbered_boxes_and_a_landscape_an_answer(drop, browser, portrait, noise, png, tmp_path):
    crowd = Image.new("RGB", (1024, 600))
    crowd.paste(portrait, (0, 0))
    crowd.paste(portrait, (512, 0))
    crowd.save(tmp_path / "crowd.png")
    status, cards = drop((tmp_path / "crowd.png").read_bytes())
    assert status == "2 faces."
    assert [f"Face {number}: " in card for number, card in enumerate(cards, start=1)] == [True, True]
    boxes = browser.execute_script("return [...document.querySelectorAll('.box')].map(b => b.textContent)")
    assert boxes == ["1", "2"]
    assert drop(png(noise(0, 300, 400))) == ("No face was found in this picture.", [])


def test_what_is_no_photo_is_refused_in_a_sentence(drop, portrait, tmp_path):
    portrait.save(tmp_path / "photo.jpg")
    cut = (tmp_path / "photo.jpg").read_bytes()[:5000]
    assert drop(cut, "photo.jpg", "image/jpeg") == ("This picture cannot be read: truncated.", [])
    assert drop(b"hello", "notes.txt", "text/plain")[0].startswith("This is not a picture.")


def test_the_keyboard_reaches_it_and_it_fits_a_phone(browser, address):
    from selenium.webdriver.common.keys import Keys

    metrics = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(address)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "drop"
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_loads_nothing_from_elsewhere_and_breaks_no_rule_of_its_own(browser, address, drop, png):
    drop(png(np.zeros((64, 64, 3), np.uint8)))
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith((address, "data:", "blob:"))] == []
    assert [line for line in browser.get_log("browser") if "Content Security Policy" in line["message"]] == []


def test_too_large_a_photo_is_refused_before_and_after_it_is_sent(browser, address, drop):
    browser.execute_script("judge(new File([new Uint8Array(21 * 2 ** 20)], 'photo.png', { type: 'image/png' }))")
    assert browser.find_element("id", "status").text == "This picture is larger than 20 MB."
    sent = http.client.HTTPConnection(address.removeprefix("http://"))
    sent.request("POST", "/judge", b"", {"Content-Type": "image/png", "Content-Length": str(21 * 2**20)})
    answer = sent.getresponse()
    assert answer.status == 413
    assert "larger than 20 MB" in answer.read().decode()
    sent.close()


def test_another_site_cannot_use_it(address):
    picture = urllib.request.Request(f"{address}/judge", b"", {"Content-Type": "application/x-www-form-urlencoded"})
    assert refused(picture) == 415
    assert refused(urllib.request.Request(address, headers={"Host": "elsewhere.example"})) == 400
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"


def refused(request):
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(request)
    answer.value.close()
    return answer.value.code


def test_nothing_dropped_is_kept(drop, bright, png):
    before = sorted(bright.rglob("*"))
    drop(png(np.full((64, 64, 3), 255, np.uint8)))
    assert sorted(bright.rglob("*")) == before
