"""Command: a page where a photo is dropped and judged. ``python -m stages.demo``, or ``make demo``.

It listens on loopback unless ``--host`` says otherwise. A photo is held in memory until it is answered and is written
nowhere; the page loads nothing from elsewhere, and no other page may use it.
"""

import argparse
import base64
import io
import logging
import secrets
from collections.abc import Sequence
from itertools import takewhile
from socket import MSG_DONTWAIT, MSG_PEEK, SHUT_RD
from threading import BoundedSemaphore, Lock, Timer
from typing import Any

from flask import Flask, Response, g, render_template, request
from flask.typing import ResponseReturnValue
from PIL import Image
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

from stages.errors import UserError, run
from stages.faces.image import FORMATS, ImageError, decode
from stages.photos import heatmap
from stages.photos.answers import Answer, Judgement, answers
from stages.photos.exported import Detector
from stages.photos.inputs import Photo
from stages.predict import CAVEAT, add_detectors, cautions, open_detectors, promise, worthless

MAX_BYTES = 20 * 2**20  # of a photo; a phone's largest JPEG has about 15 MB
IN_FLIGHT = 8  # photos, which are held as they were sent; one of them at a time is decoded and judged
PATIENCE = 60.0  # s that a browser has to send its request
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; img-src blob: data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in your network see it")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one")
    add_detectors(parser)
    arguments = parser.parse_args()

    app = page(open_detectors(arguments.detector), only_loopback=arguments.host in LOOPBACK)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    try:
        server = make_server(arguments.host, arguments.port, app, threaded=True, request_handler=Handler)
    except (OSError, SystemExit) as error:  # werkzeug prints and exits where the port is taken
        raise UserError(
            f"cannot listen on {arguments.host} port {arguments.port}; free it or choose another with --port"
        ) from error
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(f"open http://{host}:{server.port} (Ctrl-C stops it)", flush=True)
    server.serve_forever()


class Handler(WSGIRequestHandler):
    """A connection that is read until its first pause after ``PATIENCE``: no slow sender keeps its thread."""

    def setup(self) -> None:
        """Start the clock."""
        super().setup()
        self.clock = Timer(PATIENCE, self.connection.shutdown, [SHUT_RD])
        self.clock.daemon = True
        self.clock.start()

    def make_environ(self) -> dict[str, Any]:
        """The WSGI environment, with the clock, to be stopped when all is read."""
        return {**super().make_environ(), "clock": self.clock}

    def finish(self) -> None:
        """Stop the clock."""
        self.clock.cancel()
        super().finish()


def page(detectors: Sequence[Detector], *, only_loopback: bool) -> Flask:
    """The page as a WSGI application: GET / shows it, POST /judge takes a photo's bytes and answers in JSON."""
    app = Flask(__name__, template_folder="photos", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES
    app.jinja_env.autoescape = True  # by Flask's own rule not of a file that ends in .j2
    if only_loopback:  # or another site could name its own host 127.0.0.1 and read the answers (DNS rebinding)
        app.config["TRUSTED_HOSTS"] = list(LOOPBACK)
    room, turn = BoundedSemaphore(IN_FLIGHT), Lock()

    @app.get("/")
    def show() -> str:
        g.nonce = secrets.token_urlsafe(16)
        return render_template(
            "page.html.j2",
            nonce=g.nonce,
            max_bytes=MAX_BYTES,
            caveat=CAVEAT,
            cautions=cautions(detectors),
            worthless=worthless(detectors),
            detectors=[f"{detector.name}: {promise(detector)}" for detector in detectors],
        )

    @app.post("/judge")
    def judge() -> ResponseReturnValue:
        if not (request.mimetype or "").startswith("image/"):  # which a form of another site cannot send unasked
            return {"error": f"This is not a picture. {', '.join(FORMATS)} can be read."}, 415
        if not room.acquire(blocking=False):
            return {"error": "Too many photos are waiting; try again in a moment."}, 503, {"Retry-After": "5"}
        try:
            data = request.get_data(cache=False)
            if clock := request.environ.get("clock"):
                clock.cancel()
            with turn:
                if left():
                    return {"error": "Nobody waits for the answer."}, 499
                photo = Photo("photo", decode(data))
                found = list(takewhile(lambda _: not left(), answers(photo, detectors, "auto")))
        except ClientDisconnected:
            return {"error": f"This picture did not arrive within {PATIENCE:.0f} seconds."}, 408
        except MemoryError:
            return {"error": "This picture takes more memory than there is."}, 507
        except ImageError as error:
            return {"error": f"This picture cannot be read: {error}."}, 422
        finally:
            room.release()
        return {"faces": [shown(answer, answer.judgement) for answer in found if answer.judgement]}, 200

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> tuple[dict[str, Any], int]:
        if error.code == 413:
            return {"error": f"This picture is larger than {MAX_BYTES // 2**20} MB."}, 413
        return {"error": f"{error.description}"}, error.code or 500

    @app.after_request
    def guard(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY.format(nonce=g.get("nonce", ""))
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    return app


def left() -> bool:
    """Whether nobody waits any more for the answer to this request, since the other end has closed the connection."""
    connection = request.environ.get("werkzeug.socket")  # there is none without a server
    try:
        return connection is not None and not connection.recv(1, MSG_PEEK | MSG_DONTWAIT)
    except BlockingIOError:
        return False  # open, and silent
    except ConnectionError:
        return True


def shown(answer: Answer, judgement: Judgement) -> dict[str, Any]:
    """One face for the page: what ``predict`` says of it, and as data: addresses its crop and its heat map."""
    return {
        "box": answer.box,
        "enlarged": answer.enlarged,
        "unlike": judgement.unlike,
        "probability": judgement.probability,
        "verdict": judgement.verdict,
        "crop": address(judgement.crop),
        "heat": address(heatmap.overlay(judgement)),
    }


def address(picture: Image.Image) -> str:
    """A picture as a data: address."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


if __name__ == "__main__":
    run(main)
