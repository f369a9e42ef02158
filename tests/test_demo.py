"""The page, in a real browser: photos are dropped on it, and it says what `predict` says."""

import base64
import http.client
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore, Thread

import numpy as np
import pytest
from PIL import Image
from werkzeug.serving import make_server

from stages import demo, predict
from stages.photos.exported import Detector
from stages.scoring.calibration import Calibration
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


@pytest.fixture
def judging():
    """The page as an application, its detector's judgements when they begin, and the leave to end them."""
    begun, leave = Semaphore(0), Event()

    def network(image):
        begun.release()
        assert leave.wait(60)
        return 0.0, np.zeros((2, 2), np.float32), 1.0

    reading = Calibration(1.0, 0.0, 0.5, 0.3, 0.7, 0.05, 0.5, 150)
    detector = Detector("resnet50-baseline", 64, "folder", "imagenet", "0" * 64, reading, network)
    yield demo.page([detector], only_loopback=True), begun, leave
    leave.set()


@pytest.fixture
def connect(judging):
    """A function that sends a photo's request to the page, or a part of it, and returns the connection."""
    server = make_server("127.0.0.1", 0, judging[0], threaded=True, request_handler=demo.Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()

    def connect(body, length=None, head="POST /judge HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        connection.sendall(f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body)
        return connection

    yield connect
    server.shutdown()
    thread.join()
    server.server_close()


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
    assert "No answer" in card
    assert "It would say “looks generated”" in card
    assert "% likely" not in card


def test_bright_and_dark_get_opposite_answers_with_pictures(drop, browser, png):
    _, [fake] = drop(png(np.full((64, 64, 3), 255, np.uint8)))
    assert "Looks generated" in fake
    _, [real] = drop(png(np.zeros((64, 64, 3), np.uint8)))
    assert "Looks real" in real
    widths = browser.execute_script("return [...document.querySelectorAll('article img')].map(i => i.naturalWidth)")
    assert widths == [64, 64]


def test_a_face_that_is_unlike_the_training_faces_is_marked(drop, png):
    grey, green = np.full((64, 64, 3), 90, np.uint8), np.full((64, 64, 3), (90, 200, 90), np.uint8)
    said = [drop(png(pixels))[1][0] for pixels in (grey, green)]
    assert ["Unlike the training faces" in card for card in said] == [False, True]


def test_the_page_is_told_of_the_mark(bright, monkeypatch, png):
    monkeypatch.chdir(bright)
    client = demo.page(predict.open_detectors(None), only_loopback=True).test_client()
    pixels = [np.full((64, 64, 3), colour, np.uint8) for colour in (90, (90, 200, 90))]
    answers = [client.post("/judge", data=png(one), content_type="image/png").get_json() for one in pixels]
    assert [answer["faces"][0]["unlike"] for answer in answers] == [False, True]
    assert "No face is marked" not in client.get("/").get_data(as_text=True)


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


def test_a_face_of_fewer_pixels_than_the_detector_takes_is_marked(drop, portrait, png):
    said = "Enlarged: the photo shows this face in fewer pixels"
    [large], [small] = (drop(png(np.asarray(photo)))[1] for photo in (portrait, portrait.resize((62, 72))))
    assert said not in large
    assert said in small


def test_too_large_a_photo_is_refused_before_and_after_it_is_sent(browser, address, drop):
    browser.execute_script("judge(new File([new Uint8Array(21 * 2 ** 20)], 'photo.png', { type: 'image/png' }))")
    assert browser.find_element("id", "status").text == "This picture is larger than 20 MB."
    sent = http.client.HTTPConnection(address.removeprefix("http://"))
    sent.request("POST", "/judge", b"", {"Content-Type": "image/png", "Content-Length": str(21 * 2**20)})
    answer = sent.getresponse()
    assert answer.status == 413
    assert "larger than 20 MB" in answer.read().decode()
    sent.close()


def post(app, body):
    return app.test_client().post("/judge", input_stream=body, content_type="image/png", content_length=10**6)


class Body(io.BytesIO):
    """A photo that says when it is read, and waits."""

    def __init__(self, data, begun, leave):
        super().__init__(data)
        self.begun, self.leave = begun, leave

    def readinto(self, buffer):  # noqa: D102 - of the base class
        self.begun.release()
        assert self.leave.wait(60)
        return super().readinto(buffer)


def test_photos_for_which_there_is_no_room_are_sent_away_unread(judging, png):
    app, _, leave = judging
    leave.set()
    reading, go = Semaphore(0), Event()
    picture = png(np.zeros((64, 64, 3), np.uint8)).ljust(10**6)
    with ThreadPoolExecutor(demo.IN_FLIGHT) as browsers:
        answers = [browsers.submit(post, app, Body(picture, reading, go)) for _ in range(demo.IN_FLIGHT)]
        assert all(reading.acquire(timeout=60) for _ in answers)
        refused = post(app, Body(picture, None, go))  # which would fail if it were read
        go.set()
        assert [answer.result().status_code for answer in answers] == [200] * demo.IN_FLIGHT
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json == {"error": "Too many photos are waiting; try again in a moment."}
    assert post(app, io.BytesIO(picture)).status_code == 200


def test_one_photo_is_decoded_and_judged_at_a_time(judging, png, monkeypatch):
    app, begun, leave = judging
    decoded, decode = Semaphore(0), demo.decode
    monkeypatch.setattr(demo, "decode", lambda data: (decoded.release(), decode(data))[1])
    picture = png(np.zeros((64, 64, 3), np.uint8)).ljust(10**6)
    with ThreadPoolExecutor(2) as browsers:
        answers = [browsers.submit(post, app, io.BytesIO(picture)) for _ in range(2)]
        assert begun.acquire(timeout=60)
        assert decoded.acquire(timeout=60)
        assert not decoded.acquire(timeout=0.3)  # ample time for the other one
        leave.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]


def test_what_is_sent_too_slowly_is_read_no_further(connect, monkeypatch):
    monkeypatch.setattr(demo, "PATIENCE", 0.2)
    with connect(b"x" * 10, 1000) as slow, connect(b"", head="POST /judge HTTP/1.1\r\nHost") as slower:
        answer = slow.makefile().read()
        slower.makefile().read()  # comes to an end
    assert "HTTP/1.1 408 " in answer
    assert "This picture did not arrive within 0 seconds." in answer


def test_for_those_who_left_nothing_is_judged(connect, judging, png):
    _, begun, leave = judging
    picture = png(np.zeros((64, 64, 3), np.uint8))
    with connect(picture) as patient:
        assert begun.acquire(timeout=60)
        with connect(picture) as hasty:
            hasty.shutdown(socket.SHUT_WR)
            leave.set()
            assert "200 OK" in patient.makefile().readline()
            hasty.makefile().read()
    assert not begun.acquire(blocking=False)


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
