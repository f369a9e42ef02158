"""A data set from Kaggle, downloaded once, however often the way there breaks.

The official client does what only it can: it finds the credentials and asks for the download. The bytes are read here,
because the client's own downloader (2.2.4) sends its first request without a timeout, never looks at the status of the
answer to a resumed one, and so keeps an error page in place of the archive.

What came is kept in a folder of its own: ``archive.zip.part`` and ``part.json`` while it is on its way, then
``archive.zip`` and ``archive.json``, its digest. A verified archive is never asked for again.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import urllib3
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter

from stages.errors import UserError
from stages.faces.layout import LABELS, SPLITS, Place
from stages.files import read_json, sha256, write_json
from stages.params import Classes
from stages.progress import progress
from stages.sources.folder import count, require_classes, summary, verify

# What may pass if one waits. Both libraries matter: the body of an answer is read with urllib3.
NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError)

TIMEOUT = 60.0  # s without a byte after which a connection is dead
SLOWEST = 1024  # bytes/s; a connection slower than this for TIMEOUT seconds is dead too
RETRIES = 5  # failures in a row, each without PROGRESS, before giving up
PROGRESS = 1 << 20  # bytes that an attempt must bring to count as progress
BACKOFF = 1.0  # s before the first retry; doubles with each
LONGEST_WAIT = 60.0  # s that a server may ask us to wait (Retry-After); if it asks for more, the person decides
CHUNK = 1 << 20  # bytes

DEFAULT_DATASET = "xhlulu/140k-real-and-fake-faces"
DEFAULT_LICENCE = "the real faces are FFHQ's, CC BY-NC-SA 4.0: non-commercial use only, and name the authors"
INTERCEPTED = (
    "a proxy or a login page may stand between (open https://www.kaggle.com in a browser on this machine), "
    "so mend that and run again"
)
NO_ACCOUNT = "a set with source: sample needs no account"
NEW_TOKEN = (
    "create a token at https://www.kaggle.com/settings and save it as ~/.kaggle/access_token or in KAGGLE_API_TOKEN"
)


def fetch(
    dataset: str,
    pinned: str | None,
    archive: Path,
    keep: Path,
    *,
    both: bool = True,
    classes: Classes | None = None,
) -> dict[str, Any]:
    """Bring the Kaggle data set ``dataset`` (OWNER/NAME) to ``archive`` through the folder ``keep``; return provenance.

    ``pinned`` is the SHA-256 that the archive must have, or None for any; ``classes`` tell where its classes lie.
    Raises :class:`UserError` for all that can go wrong between here and Kaggle, and if it lacks one of the classes, or
    (without ``both``) the two of them; what has arrived stays in ``keep``, and the next call resumes there.
    """
    keep.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(keep / "lock", timeout=0):
            provenance = _kept(keep) or _obtain(dataset, keep)
    except Timeout:
        raise UserError(
            f"another run is downloading {dataset} to {keep}; wait until it is done and run again"
        ) from None
    if pinned and pinned != provenance["sha256"]:
        raise UserError(
            f"the archive of {dataset} has sha256 {provenance['sha256']}, but params.yaml has sha256: {pinned}; "
            f"correct the parameter, or delete {keep} to download it anew"
        )
    counts, skipped = count(keep / "archive.zip", classes)
    require_classes(counts, f"Kaggle's {dataset}", both=both, classes=classes)
    places = {Place(kind, split) for split in SPLITS for kind in LABELS}
    if dataset == DEFAULT_DATASET and not classes and (missing := places - counts.keys()):
        lacks = ", ".join(sorted(map(str, missing)))
        raise UserError(f"Kaggle's {dataset} lacks {lacks}; it has changed, so please report this")
    try:
        # A link costs no space, and is safe here: no one ever writes into the kept archive, it is only replaced.
        os.link(keep / "archive.zip", archive)
    except OSError:
        shutil.copyfile(keep / "archive.zip", archive)
    return {**provenance, **summary(counts, skipped)}


def _kept(keep: Path) -> dict[str, Any] | None:
    """The provenance of the verified archive in ``keep``, or None if there is none or it is not what was verified."""
    archive, record = keep / "archive.zip", keep / "archive.json"
    if not (archive.exists() and record.exists()):
        return None
    content = read_json(record)
    provenance: dict[str, Any] = content["provenance"]
    if _fingerprint(archive) != content["fingerprint"] and sha256(archive) != provenance["sha256"]:
        return None
    print(f"{archive} was downloaded and verified on {provenance['retrieved'][:10]}; not asking Kaggle again")
    return provenance


def _fingerprint(path: Path) -> list[int]:
    """Size in bytes and time of change in nanoseconds: the same as ever means that the content is, too."""
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _obtain(dataset: str, keep: Path) -> dict[str, Any]:
    """Download, verify, and only then call it ``archive.zip``; return its provenance."""
    part = keep / "archive.zip.part"
    with _bounded_requests():
        _download(dataset, part)
    try:
        verify(part)
    except zipfile.BadZipFile as error:
        part.unlink()
        raise UserError(
            f"what came from Kaggle is not a sound zip ({error}) and was deleted; run again to download it anew"
        ) from None
    provenance = {
        "dataset": dataset,
        "url": f"https://www.kaggle.com/datasets/{dataset}",
        "licence": DEFAULT_LICENCE if dataset == DEFAULT_DATASET else f"see https://www.kaggle.com/datasets/{dataset}",
        "retrieved": datetime.now(UTC).isoformat(timespec="seconds"),
        "sha256": sha256(part),
    }
    write_json(keep / "archive.json", {"fingerprint": _fingerprint(part), "provenance": provenance})
    os.replace(part, keep / "archive.zip")
    (keep / "part.json").unlink(missing_ok=True)
    return provenance


# --- The way to Kaggle ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _bounded_requests() -> Iterator[None]:
    """Give every request that has no timeout ``TIMEOUT``, while the block runs.

    The client sends its requests, even those it sends while being imported, through sessions of its own that have none,
    and ``socket.setdefaulttimeout`` does not reach them, for requests passes on an explicit None. All pass the adapter.
    """
    send = HTTPAdapter.send

    def bounded(
        self: HTTPAdapter, request: Any, stream: bool = False, timeout: Any = None, **settings: Any
    ) -> requests.Response:
        return send(self, request, stream=stream, timeout=timeout or TIMEOUT, **settings)

    HTTPAdapter.send = bounded  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        HTTPAdapter.send = send  # type: ignore[method-assign]


def _download(dataset: str, part: Path) -> None:
    """Bring the whole archive to ``part``, resuming what is there, with retries while there is hope."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _attempt(dataset, part)
        except NETWORK_ERRORS as error:
            came = _size(part)
            failures = 1 if came - before >= PROGRESS else failures + 1
            problem = _sentence(error, dataset)
            if not _may_pass(error) or failures > RETRIES:
                kept = f"; the {came / 1e6:,.1f} MB that came are kept, and the next run resumes" if came else ""
                raise UserError(f"{problem}{kept}") from None
            wait = _retry_after(error) or BACKOFF * 2 ** (failures - 1)
            what = problem.partition(";")[0]  # not what to do: for now we do it ourselves
            print(f"{what}; trying again in {wait:.0f} s ({failures} of {RETRIES})", file=sys.stderr)
            time.sleep(wait)


def _attempt(dataset: str, part: Path) -> None:
    """Ask Kaggle for the archive and append to ``part`` what it lacks. Raises ``NETWORK_ERRORS`` if that is not all."""
    response = _ask(dataset)
    whole = _identity(response)
    start = _resumable(part, whole)
    if start and start == whole["size"]:
        return response.close()
    if start:
        # The client's answer starts at the first byte; the signed address it was redirected to can give the rest.
        response.close()
        wanted = {"Range": f"bytes={start}-", "If-Range": whole["validator"], "Accept-Encoding": "identity"}
        response = requests.get(response.url, headers=wanted, stream=True)
        response.raise_for_status()
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start, whole = 0, _identity(response)
    with response:
        _save(response, part, start, whole)
    if whole["size"] not in (None, _size(part)):
        raise requests.ConnectionError("the answer ended early")
    return None


def _ask(dataset: str) -> requests.Response:
    """Kaggle's answer to a request for all of a data set, its body not yet read."""
    try:
        api = _login()
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest  # type: ignore[import-untyped]

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = dataset.split("/")
        with api.build_kaggle_client() as client, contextlib.redirect_stdout(io.StringIO()):
            response: requests.Response = client.datasets.dataset_api_client.download_dataset(request)
    except json.JSONDecodeError:
        raise UserError(f"Kaggle's answer makes no sense; {INTERCEPTED}") from None
    except NETWORK_ERRORS:
        raise
    except ValueError:
        raise requests.exceptions.InvalidHeader from None  # by http.client, whose message shows the token
    return response


def _login() -> Any:
    """The official client, with whichever credentials it finds."""
    try:
        # It logs in while it is imported, swallows what goes wrong, and prints a page of help without credentials.
        with contextlib.redirect_stdout(io.StringIO()):
            from kaggle import api

            # VERBOSE=1, which is common in CI, would make it print the credentials and read 4 GB into memory.
            api.args = [argument for argument in api.args if argument != "--verbose"]
            if api.CONFIG_NAME_AUTH_METHOD not in api.config_values:
                api.authenticate()
    except SystemExit:
        raise UserError(f"{_no_credentials()}; {NEW_TOKEN}; {NO_ACCOUNT}") from None
    return api


def _no_credentials() -> str:
    """Why the client found no credentials that serve."""
    from kaggle import api
    from kagglesdk.kaggle_env import get_access_token_from_env  # type: ignore[import-untyped]

    token, place = get_access_token_from_env()
    if token:
        return f"Kaggle does not accept the token in {place}: mistyped, expired, revoked or the name of a missing file"
    if Path(api.config).exists():
        return f"{api.config} holds no username and key"
    return "found no Kaggle credentials"


# --- The bytes --------------------------------------------------------------------------------------------------------


def _size(path: Path) -> int:
    """The size of a file in bytes, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def _identity(response: requests.Response) -> dict[str, Any]:
    """What tells one state of the remote archive from another: validator and size in bytes, None where not given."""
    length = response.headers.get("Content-Length")
    return {
        "validator": response.headers.get("ETag") or response.headers.get("Last-Modified"),
        "size": int(length) if length else None,
    }


def _resumable(part: Path, whole: dict[str, Any]) -> int:
    """How many bytes of the remote archive ``whole`` are in ``part`` already; 0 unless they are surely its own."""
    record = part.with_name("part.json")
    if not (part.exists() and record.exists()) or None in whole.values() or read_json(record) != whole:
        return 0
    return _size(part) if _size(part) <= whole["size"] else 0


def _save(response: requests.Response, part: Path, start: int, whole: dict[str, Any]) -> None:
    """Stream the body of an answer to ``part`` from byte ``start`` on, if it is a zip and fits on the disk."""
    head = b""
    if start == 0:
        head = response.raw.read(4)
        if head != b"PK\x03\x04":
            kind = response.headers.get("Content-Type", "something unnamed").split(";")[0]
            raise UserError(f"a zip was expected from Kaggle, but {kind} came; {INTERCEPTED}")
    _require_space(part, start, whole["size"])
    if start == 0:
        part.unlink(missing_ok=True)  # first, or a kill would leave old bytes under a new identity
    write_json(part.with_name("part.json"), whole)
    try:
        with (
            part.open("ab") as file,
            progress(total=whole["size"], initial=start, desc="downloading", unit="B", unit_scale=True) as bar,
        ):
            for chunk in _chunks(response, head):
                file.write(chunk)
                file.flush()  # what is counted as progress outlives a kill
                bar.update(len(chunk))
    except OSError as error:
        if error.errno is None:  # a network error, which requests derives from OSError
            raise
        raise UserError(
            f"cannot write to {part} ({error.strerror}); make room there and run again, the download resumes"
        ) from None


def _chunks(response: requests.Response, head: bytes) -> Iterator[bytes]:
    """``head``, then the rest of a body as it comes; :class:`requests.Timeout` if that is slower than ``SLOWEST``.

    ``iter_content`` would wait until a chunk is full, which a server that sends a byte a minute can put off for years.
    """
    yield head
    came, deadline = 0, time.monotonic() + TIMEOUT
    while chunk := response.raw.read1(CHUNK):
        yield chunk
        came += len(chunk)
        if time.monotonic() > deadline:
            if came < SLOWEST * TIMEOUT:
                raise requests.Timeout("too slow")
            came, deadline = 0, time.monotonic() + TIMEOUT


def _require_space(part: Path, start: int, size: int | None) -> None:
    """Refuse before the first byte if the rest of the archive does not fit on the disk."""
    if size is None:
        print(
            "Kaggle does not say how large the archive is, so neither the free disk space nor a resume can be seen to",
            file=sys.stderr,
        )
        return
    free = shutil.disk_usage(part.parent).free
    if size - start > free:
        raise UserError(
            f"{(size - start) / 1e9:,.2f} GB are still to come from Kaggle, but {part.parent} has "
            f"{free / 1e9:,.2f} GB free; make room there and run again"
        )


# --- What can go wrong ------------------------------------------------------------------------------------------------


def _status(error: Exception) -> int | None:
    """The HTTP status of an error, None if it has none; the client takes ``{"code": 403}`` in a good answer for one."""
    if not isinstance(error, requests.HTTPError) or error.response is None:
        return None
    status = error.response.status_code
    return status if status >= 400 else int(error.response.json()["code"])


def _retry_after(error: Exception) -> float | None:
    """The seconds that the server asks us to wait, None if it does not say."""
    response = error.response if isinstance(error, requests.HTTPError) else None
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else None


def _may_pass(error: Exception) -> bool:
    """Whether trying again soon may help."""
    if isinstance(error, requests.HTTPError):
        status = _status(error) or 0
        return (status == 429 or status >= 500) and (_retry_after(error) or 0) <= LONGEST_WAIT
    return not isinstance(error, requests.exceptions.InvalidHeader) and not _untrusted(error)


def _untrusted(error: Exception) -> bool:
    """Whether a certificate was refused; other errors of TLS are a connection that broke."""
    return "CERTIFICATE_VERIFY_FAILED" in repr(error)


def _sentence(error: Exception, dataset: str) -> str:
    """What went wrong and what to do, in our words.

    The libraries' own words hold the signed address of the archive and, for a token with a stray character, the token.
    """
    page = f"https://www.kaggle.com/datasets/{dataset}"
    match _status(error):
        case 401:
            return f"Kaggle refused the credentials (401); {NEW_TOKEN}; {NO_ACCOUNT}"
        case 403:
            return (
                f"Kaggle denied access to {dataset} (403); open {page} while logged in and accept its terms, if it "
                "asks; if it is not to be seen there, it is private or its name in params.yaml is misspelt"
            )
        case 404:
            return f"Kaggle has no data set {dataset} (404); check its spelling in params.yaml against {page}"
        case 429:
            wait = _retry_after(error)
            pause = f"{wait:.0f} s" if wait else "an hour"
            return f"Kaggle allows no more requests for now (429); wait {pause} and run again"
        case int(status):
            return f"Kaggle answered with an error ({status}); that is theirs to mend, so run again later"
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "the Kaggle token or key holds a character that it cannot, such as a line break; copy it again"
    if _untrusted(error):
        return (
            "Kaggle's certificate cannot be trusted (TLS); behind a company's proxy, set REQUESTS_CA_BUNDLE to its own"
        )
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"Kaggle fell silent for {TIMEOUT:.0f} s; check the network and run again"
    if "NameResolutionError" in repr(error):
        return "Kaggle's address cannot be found; this machine seems to have no network, so connect it and run again"
    return "the connection to Kaggle failed or broke; check the network (and HTTPS_PROXY, if you set it) and run again"
