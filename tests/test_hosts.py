"""Training over several hosts: processes on this machine that meet by ``TF_CONFIG``, each with its own TensorFlow."""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from stages import baseline, weights
from stages.backend import tf
from stages.detectors import assembly, hosts, over_hosts, training
from stages.errors import UserError
from tests import test_finetune
from tests.detectors import test_training
from tests.test_finetune import MODEL, SETTINGS

ROOT = Path(__file__).parents[1]
STAGE = """
import sys
from stages import finetune
from stages.detectors import assembly
from tests.conftest import toy_backbone
assembly.backbone_module = lambda model: toy_backbone()
sys.argv = ["finetune", "resnet50"]
from stages.errors import run
run(finetune.main)
"""


pack = test_finetune.pack  # a fixture


def config(number, addresses):
    """What ``TF_CONFIG`` says on a host."""
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}})


def ports(count):
    """Addresses where nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def start(folder, **environment):
    """A host at work in a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOSTS_PATIENCE": "60"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", STAGE], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ended(*processes):
    """Exit codes and output of hosts."""
    said = [process.communicate(timeout=120)[0].decode() for process in processes]
    return [process.returncode for process in processes], said


@pytest.fixture
def project(tmp_path, monkeypatch, write_params, command, pack, toy, float32):
    """A function that makes a folder in which the baseline of the toy is, and says how it is fine-tuned."""

    def project(name, **keys):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.delenv("DVC_ROOT", raising=False)
        for module in (weights, assembly):
            monkeypatch.setattr(module, "backbone_module", lambda model: toy)
        write_params(SETTINGS | {f"detectors.{MODEL}.finetune.{key}": value for key, value in keys.items()})
        pack()
        for stage in (weights, baseline):
            command(stage.main, MODEL)
        return folder

    return project


def weights_of(folder):
    """All weights of the detector that was written there."""
    return assembly.load(folder / f"data/models/{MODEL}-finetune.keras").get_weights()


def history(folder):
    rows = training.read_history(folder / f"data/models/{MODEL}-finetune.csv")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


PROBE = {"start": "probe", "epochs": 25, "batch_size": 6, "learning_rate": 0.001}  # 50 steps


def test_two_hosts_end_with_the_weights_of_one_though_one_was_killed(project):
    folder = project("one", **PROBE)
    several = folder.with_name("two")
    shutil.copytree(folder, several)
    alone = start(folder)

    addresses = ports(2)
    pair = [start(several, TF_CONFIG=config(number, addresses)) for number in (0, 1)]
    deadline = time.monotonic() + 100
    while not list(several.glob(".scratch/*/epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGKILL)
    codes, said = ended(*pair)
    assert codes == [1, -signal.SIGKILL]
    assert "error: another host went away (Collective ops is aborted by: " in said[0]
    assert "Traceback" not in said[0]
    assert not (several / f"data/models/{MODEL}-finetune.keras").exists()

    addresses = ports(2)
    codes, said = ended(*(start(several, TF_CONFIG=config(number, addresses)) for number in (0, 1)))
    assert codes == [0, 0], said
    assert "were done before" in said[0]
    assert "retracing" not in said[0]  # TensorFlow says so of what is made anew in each epoch
    assert list((several / ".scratch").iterdir()) == []
    assert ended(alone)[0] == [0]
    for one, two in zip(weights_of(folder), weights_of(several), strict=True):
        assert np.abs(one - two).max() <= 1e-4 * np.abs(one).max()
    for one, two in zip(history(folder), history(several), strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "message", "away"),
    [
        ("UnavailableError", "{{node x}} Socket closed\nmore", "Socket closed"),
        ("InternalError", "{{node x}} Collective ops is aborted by: y", "Collective ops is aborted by: y"),
        ("InternalError", "{{node x}} Failed launching a kernel", None),
    ],
)
def test_a_kernel_that_fails_here_is_no_host_that_went_away(kind, message, away):
    def batches():
        raise getattr(tf.errors, kind)(None, None, message)
        yield

    model, example = test_training.linear(), (np.zeros((1, 4)), np.zeros((1, 1)))
    length = {"initial_epoch": 0, "epochs": 1, "steps_per_epoch": 1}
    with pytest.raises((UserError, tf.errors.InternalError)) as error:
        over_hosts.fit(model, batches(), example, **length, callbacks=[])
    assert str(error.value).startswith(f"another host went away ({away}); start") == bool(away)


def test_hosts_with_other_parameters_do_not_train_together(project):
    folder, addresses = project("mine", **PROBE), ports(2)
    other = Path(shutil.copytree(folder, folder.with_name("other")))
    params = (other / "params.yaml").read_text()
    assert "epochs: 25" in params
    (other / "params.yaml").write_text(params.replace("epochs: 25", "epochs: 3"))
    codes, said = ended(start(folder, TF_CONFIG=config(0, addresses)), start(other, TF_CONFIG=config(1, addresses)))
    assert codes == [1, 1]
    for one in said:
        assert f"error: {addresses[1]} differs from the chief in parameters: bring the same" in one
        assert "Traceback" not in one


@pytest.mark.parametrize("number", [0, 1])
def test_a_host_that_does_not_come_is_not_waited_for_for_ever(monkeypatch, number):
    addresses = ports(2)
    monkeypatch.setenv("HOSTS_PATIENCE", "0.5")
    absent = "did not come within" if number == 0 else f"the chief, {addresses[0]}, does not answer within"
    with pytest.raises(UserError, match=absent):
        meet(number, addresses)


def test_something_that_takes_the_calls_of_hosts_and_stays_silent_is_no_chief(monkeypatch):
    monkeypatch.setenv("HOSTS_PATIENCE", "0.5")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=f"the chief, {address}, does not answer within 0.5 s"):
            meet(1, [address, "127.0.0.1:1"])


IN_FIRST = b'{"number": 1, "made_of": {}}\n'


def meet(number, addresses, made_of=None, begun=(0, b"")):
    """What a host hears."""
    return hosts.meet(hosts.Worker(number, addresses), made_of or {"code": "1", "data": "2"}, *begun)


def knock(address, said):
    """Say something to the chief as soon as it listens; the connection."""
    while True:
        try:
            stranger = socket.create_connection(hosts.parts(address))
        except OSError:  # it does not listen yet
            time.sleep(0.05)
        else:
            stranger.sendall(said)
            return stranger


def test_hosts_meet_whoever_else_knocks_and_begin_with_the_chiefs_backup(tmp_path):
    addresses, backup = ports(3), (3, b"weights" * 10**6)
    with ThreadPoolExecutor(3) as pool, ExitStack() as strangers:
        chief = pool.submit(meet, 0, addresses, begun=backup)
        lines = [b"", b"not JSON", b"[1]", b'{"number": 1}', b'{"number": [], "made_of": {}}', b"\xff", b"[" * 5000]
        for nonsense in [line + b"\n" for line in lines] + [pickle.dumps(print), b"9" * 50000]:
            knock(addresses[0], nonsense).close()
        for part in (b"", b'{"number": 1'):
            strangers.enter_context(knock(addresses[0], part))  # and then silence
        knock(addresses[0], IN_FIRST).close()  # a host that was stopped, and is started again
        others = [pool.submit(meet, number, addresses) for number in (1, 2)]
        assert [one.result(30) for one in (chief, *others)] == [backup] * 3


def test_what_differs_is_named_on_all_hosts():
    addresses = ports(3)
    with ThreadPoolExecutor(3) as pool:
        made_of = [{"code": "1", "data": "2"}, {"code": "1", "data": "x"}, {"code": "1"}]
        for one in [pool.submit(meet, number, addresses, made_of[number]) for number in range(3)]:
            sentence = f"{addresses[1]} differs from the chief in data; {addresses[2]} differs from the chief in data: "
            with pytest.raises(UserError, match=sentence):
                one.result(30)


def test_hosts_with_other_lists_do_not_meet():
    chief, first, second = ports(3)
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(meet, 0, [chief, first]), pool.submit(meet, 1, [chief, second])]:
            with pytest.raises(UserError, match="differs from the chief in the addresses in TF_CONFIG"):
                one.result(30)


def test_a_number_that_nobody_or_another_has_is_refused_and_the_others_meet():
    addresses = ports(3)
    with ThreadPoolExecutor(3) as pool:
        chief = pool.submit(meet, 0, addresses)
        with knock(addresses[0], IN_FIRST):
            for number in (1, 3):
                with pytest.raises(UserError, match=f"no other host with the index {number} in TF_CONFIG"):
                    meet(number, [*addresses, "127.0.0.1:1"])
        others = [pool.submit(meet, number, addresses) for number in (1, 2)]
        assert [one.result(30) for one in (chief, *others)] == [(0, b"")] * 3


@pytest.mark.parametrize("patience", ["ten", "nan", "0", "-1", "inf"])
def test_a_patience_that_is_none_is_one_sentence(monkeypatch, patience):
    monkeypatch.setenv("HOSTS_PATIENCE", patience)
    with pytest.raises(UserError, match=f"HOSTS_PATIENCE must be a number of seconds, more than 0; it is {patience}"):
        meet(0, ports(2))


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}", config(2, ["a:1", "b:2"]), config(0, ["a"]), config("x", ["a:1"])),
        *(config(0, ["a:1", "b:0"]), config(0, ["a:1", "b:65536"]), config(0, ["a:1", "a:1"]), config(0, {"a:1": 2})),
    ],
)
def test_a_tf_config_that_makes_no_sense_is_one_sentence(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG must be"):
        hosts.worker()


def test_one_host_is_none_that_waits(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(0, ["a:1"]))
    assert not hosts.worker().several
    monkeypatch.delenv("TF_CONFIG")
    assert not hosts.worker().several
