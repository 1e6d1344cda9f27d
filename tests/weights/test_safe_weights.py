"""Weight files that lie: pickles that want more than data, downloads that are not what was promised, foreign models."""

import codecs
import functools
import hashlib
import http.server
import io
import os
import pickle
import sys
import threading
from argparse import Namespace
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.checkpoint.sources import is_remote, local_weights
from densekit.files.unpickling import ArrayUnpickler, UnsafePickleError
from densekit.weights import convert_file, read_checkpoint, zoo
from densekit.weights.download import cached_path, fetch, split_sum


def unpickle(data: bytes):
    return ArrayUnpickler(io.BytesIO(data)).load()


# Pickles


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_scalars_and_plain_containers_come_through(protocol):
    content = {
        "model": OrderedDict(
            a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.asfortranarray(np.ones((2, 2), ">f8"))
        ),
        "scalar": np.float64(2.5),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), np.int64),
        "names": np.array(["ab", "c"]),
        "args": Namespace(lr=0.1, steps=[1, 2]),
        "text": ("a", b"bytes", None, {1, 2}),
    }
    data = pickle.dumps(content, protocol=protocol)
    found, content = unpickle(data), pickle.loads(data)  # numpy turns bytes into this machine's order as it reads
    assert found["args"] == content["args"] and found["text"] == content["text"] and found["scalar"] == 2.5
    for name in ("flags", "empty", "names"):
        assert found[name].dtype == content[name].dtype and np.array_equal(found[name], content[name])
    for name, value in content["model"].items():
        assert np.array_equal(found["model"][name], value) and found["model"][name].dtype == value.dtype


def test_pickles_of_python_2_in_text_are_read():
    assert unpickle(pickle.dumps({"w": np.arange(3.0)}, protocol=0))["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_pickles_of_old_and_new_numpy_are_read(core):
    data = pickle.dumps(np.arange(3.0), protocol=2)
    assert b"numpy._core" in data or b"numpy.core" in data
    data = data.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", core.encode())
    assert unpickle(data).tolist() == [0, 1, 2]


class Reduce:
    """Pickles as a call."""

    def __init__(self, function, *args) -> None:
        self._call = function, args

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (Reduce(os.system, "true"), r"system"),
        (Reduce(eval, "1"), r"_builtin_\w*\.eval|builtins\.eval"),
        (Reduce(getattr, "a", "upper"), r"_builtin_\w*\.getattr|builtins\.getattr"),
        (Reduce(np.load, "x.npy"), r"load"),
        (Reduce(np.frompyfunc, len, 1, 1), r"len|frompyfunc"),
        (np.array([object()], dtype=object), r"builtins\.object|dtype 'O|arrays of object"),
        (np.array([[1], {}], dtype=object), r"dtype 'O|arrays of object"),
        (np.zeros(2, [("a", "f4"), ("b", "O")]), r"numpy arrays of"),
        (np.zeros(2, "M8[s]"), r"numpy arrays of datetime64"),
        (torch.zeros(1), r"torch\._utils\._rebuild_tensor_v2"),
        (nn.Linear, r"torch\.nn\.modules\.linear\.Linear"),
        (Reduce(bytearray, 3), r"bytearray"),
    ],
)
def test_all_else_in_a_pickle_is_refused_by_its_name(tmp_path, thing, named):
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.zeros(1)}, "__author__": "x", "more": thing}, protocol=2))
    with pytest.raises(ValueError, match=rf"zoo\.pkl: the file asks for .*(?:{named}).*would run code"):
        read_checkpoint(path)


def test_a_dtype_cannot_gain_objects_after_it_was_made():
    # Text of 8 bytes whose state adds a field; such a field could pass for objects, and the bytes for pointers.
    forged = b"\x80\x02cnumpy\ndtype\nU\x02S8\x89\x88\x87R(K\x03U\x01|NU\x01a\x85}U\x01aK\x01\x85sK\x08K\x01K\x00tb."
    with pytest.raises(UnsafePickleError, match="numpy dtype described by"):
        unpickle(forged)


def test_persistent_ids_and_codecs_are_refused():
    class Writer(pickle.Pickler):
        def persistent_id(self, obj):
            return "secret" if isinstance(obj, complex) else None

    buffer = io.BytesIO()
    Writer(buffer).dump([1j])
    with pytest.raises(UnsafePickleError, match="persistent id 'secret'"):
        unpickle(buffer.getvalue())
    with pytest.raises(UnsafePickleError, match="encoding 'rot13'"):
        unpickle(pickle.dumps(Reduce(codecs.encode, "abc", "rot13")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04.",
        b"\x80\x02]q\x00K\x01h\x07.",
        pickle.dumps(np.zeros(5), protocol=2)[:-9] + b".",
        b"\x80\x02" + b"(" * 5 + b"l.",
    ],
)
def test_damaged_pickles_are_named(tmp_path, data):
    path = tmp_path / "half.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"half\.pkl"):
        read_checkpoint(path)


@pytest.mark.parametrize("dtype", ["U3", "S3", ">f4", "f2", "i8"])
def test_weights_are_numbers(tmp_path, dtype):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"layer.w": np.ones(3, dtype)}, "__author__": "x"}))
    if dtype[0] in "US":
        with pytest.raises(ValueError, match=r"a\.pkl: entry 'layer\.w' is"):
            read_checkpoint(path)
    else:
        assert torch.equal(read_checkpoint(path)["model"]["layer.w"].float(), torch.ones(3))


def test_pth_with_what_training_scripts_keep_beside_the_weights(tmp_path, monkeypatch):
    module = ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    curve = module.HistoryBuffer()
    curve.values, curve.length = np.arange(3.0), 3
    best = {"score": np.float64(0.5), "steps": np.array([1, 2]), "args": Namespace(lr=0.1), "curve": curve}
    torch.save({"state_dict": {"w": torch.ones(1), "b": np.zeros(2, np.float32)}, "meta": best}, tmp_path / "a.pth")
    model = read_checkpoint(tmp_path / "a.pth")["model"]
    assert {name: value.tolist() for name, value in model.items()} == {"w": [1], "b": [0, 0]}
    torch.save({"model": {"w": torch.ones(1)}, **best}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert found["score"] == 0.5 and found["steps"].tolist() == [1, 2] and found["args"].lr == 0.1
    assert not vars(found["curve"])


def test_pth_with_an_array_of_objects_is_refused(tmp_path):
    torch.save({"model": {"w": torch.ones(1)}, "best": np.array([{}, 1], dtype=object)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: the file asks for numpy arrays of object, and"):
        read_checkpoint(tmp_path / "a.pth")


def test_pth_with_a_class_is_refused_by_its_name(tmp_path):
    torch.save({"model": {"w": torch.ones(1)}, "net": nn.Linear(1, 1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: the file asks for torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "a.pth")


# Coverage


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(2, 2) for _ in range(10)))
        self.head = nn.Linear(2, 3)


def test_weights_that_hardly_fit_are_refused_unless_asked(tmp_path):
    path = str(tmp_path / "other.pth")
    torch.save({"body.0.weight": torch.ones(2, 2), "head.bias": torch.ones(7), "neck.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError) as caught:
        Checkpointer(Net()).load(path)
    text = str(caught.value)
    assert "they fill 4.5% of the model, and MODEL.WEIGHTS_MIN_COVERAGE is 10.0%" in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "loaded body.0.weight 1 entry" in rows
    assert "other shape head.bias file (7,), model (3,)" in rows
    assert "not in the model neck.weight 1 entry" in rows
    assert any(row.startswith("not in the file body") for row in rows)
    net = Net()
    Checkpointer(net, min_coverage=0.0).load(path)
    assert torch.equal(net.body[0].weight, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"MIN_COVERAGE is 90\.0%"):
        state = {name: value for name, value in net.state_dict().items() if not name.startswith("body.9")}
        torch.save({name: value for name, value in state.items() if not name.startswith("head")}, path)
        Checkpointer(Net(), min_coverage=0.9).load(path)


# Downloads, from a server of this machine


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served, its address, and what was asked for."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "www"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path.startswith("/cut/"):  # promises more than it sends
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def leftovers(tmp_path) -> list[str]:
    return [path.name for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_a_download_is_kept_and_asked_for_once(tmp_path, server, caplog):
    folder, address, asked = server
    torch.save(nn.Linear(2, 3).state_dict(), folder / "a.pth")
    url = f"{address}/a.pth"
    assert is_remote(url) and not is_remote(str(folder / "a.pth"))
    net = nn.Linear(2, 3)
    Checkpointer(net).load(url)
    Checkpointer(net).load(url)
    assert asked == ["/a.pth"] and leftovers(tmp_path) == ["a.pth"] and not is_remote(url)
    assert torch.equal(net.weight, torch.load(folder / "a.pth", weights_only=True)["weight"])
    sum_ = hashlib.sha256((folder / "a.pth").read_bytes()).hexdigest()
    assert f"write {url}#sha256={sum_}" in caplog.text
    assert local_weights(f"{url}#sha256={sum_}") == str(cached_path(url))


def test_an_entry_of_the_catalogue_is_a_download(tmp_path, server, monkeypatch):
    folder, address, asked = server
    path = folder / "detectron" / "ImageNetPretrained" / "47261647" / "R-50-GN.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"pred_w": np.ones((3, 2), "f"), "pred_b": np.zeros(3, "f")}, protocol=2))
    monkeypatch.setattr(zoo, "_SERVER", f"{address}/")
    net, name = nn.Sequential(OrderedDict(linear=nn.Linear(2, 3))), "catalog://ImageNetPretrained/FAIR/R-50-GN"
    assert is_remote(name)
    Checkpointer(net).load(name)
    assert asked == ["/detectron/ImageNetPretrained/47261647/R-50-GN.pkl"] and not is_remote(name)
    assert torch.equal(net.linear.weight, torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"R-50-G is not in Detectron2's catalogue.*FAIR/R-50-GN.*detectron2://"):
        Checkpointer(net).load("catalog://ImageNetPretrained/FAIR/R-50-G")


def test_a_content_that_was_not_promised_is_refused_and_removed(tmp_path, server):
    folder, address, _ = server
    (folder / "a.pth").write_bytes(b"some content")
    (folder / "b-00000000.pth").write_bytes(b"some content")
    good = hashlib.sha256(b"some content").hexdigest()
    (folder / f"c-{good[:8]}.pth").write_bytes(b"some content")
    with pytest.raises(ValueError, match=rf"a\.pth was downloaded and removed: its sha256 is {good} and should begin"):
        local_weights(f"{address}/a.pth#sha256={'0' * 64}")
    with pytest.raises(ValueError, match=r"b-00000000\.pth was downloaded and removed"):
        local_weights(f"{address}/b-00000000.pth")
    assert leftovers(tmp_path) == []
    assert fetch(f"{address}/c-{good[:8]}.pth").read_bytes() == b"some content"


def test_a_kept_file_that_has_changed_is_downloaded_anew(server):
    folder, address, asked = server
    name = f"a-{hashlib.sha256(b'good').hexdigest()[:10]}.pth"
    (folder / name).write_bytes(b"good")
    path = fetch(f"{address}/{name}")
    path.write_bytes(b"changed")
    assert fetch(f"{address}/{name}").read_bytes() == b"good" and len(asked) == 2


def test_what_comes_half_or_not_at_all_leaves_nothing(tmp_path, server):
    folder, address, _ = server
    (folder / "page.html").write_text("<html>")
    (folder / "empty.pth").write_bytes(b"")
    for name, reason in (
        ("cut/a.pth", "10 of 1000 bytes came"),
        ("empty.pth", "0 of 0 bytes"),
        ("page.html", "a page for people"),
    ):
        with pytest.raises(ValueError, match=reason):
            local_weights(f"{address}/{name}")
    with pytest.raises(FileNotFoundError, match=r"none\.pth cannot be downloaded: the server answers 404"):
        local_weights(f"{address}/none.pth")
    with pytest.raises(FileNotFoundError, match="Download it on another machine"):
        local_weights("http://127.0.0.1:9/a.pth")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["http://host/a/../../b.pth", "http://host/%2e%2e/%2e%2e/b.pth", "http://host", "http:///a.pth"]
)
def test_an_address_cannot_leave_the_cache(url):
    with pytest.raises(ValueError, match="is not the address of a file"):
        cached_path(url)


def test_sums_of_local_files_and_wrong_sums(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"abc")
    good = hashlib.sha256(b"abc").hexdigest()
    assert local_weights(f"{path}#sha256={good.upper()}") == str(path)
    with pytest.raises(ValueError, match=r"a\.pth are not the expected ones"):
        local_weights(f"{path}#sha256={'1' * 64}")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        split_sum("a.pth#sha256=12")


def test_nothing_is_downloaded_unasked(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    Checkpointer(nn.Linear(1, 1)).load("")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Checkpointer(nn.Linear(1, 1)).load("nowhere.pth")


# Conversion


def test_tensors_that_share_memory_are_converted(tmp_path):
    weight = torch.rand(4, 4)
    torch.save({"a": weight, "b": weight, "c": weight.t(), "d": weight[1:]}, tmp_path / "a.pth")
    assert convert_file(tmp_path / "a.pth", tmp_path / "b.safetensors") == ("names kept", 4)
    assert convert_file(tmp_path / "b.safetensors", tmp_path / "c.pth") == ("names kept", 4)
    found = read_checkpoint(tmp_path / "c.pth")["model"]
    assert torch.equal(found["c"], weight.t()) and torch.equal(found["d"], weight[1:])
