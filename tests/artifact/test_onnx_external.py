"""External data of .onnx files: what onnx writes is taken, all else refused. The oracle is onnx itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from hotlap.artifact import onnx_external
from hotlap.errors import ArtifactRefused

SIZES = {"model.onnx": 1000, "model.onnx.data": 48}


def tensor(name: str = "w", **external) -> TensorProto:
    found = numpy_helper.from_array(np.arange(12, dtype=np.float32), name)
    if external:
        set_external_data(found, **{"location": "model.onnx.data", "offset": 0, "length": 48, **external})
        found.ClearField("raw_data")
    return found


def model(*initializers: TensorProto, nodes=(), **more) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers))
    for name, value in more.items():
        getattr(graph, name).extend(value)
    return helper.make_model(graph)


def check(proto: onnx.ModelProto, sizes=SIZES) -> None:
    onnx_external.check(proto.SerializeToString(), "model.onnx", sizes)


def test_the_fields_walked_are_all_that_lead_to_a_tensor():
    """Compare with onnx's own descriptors, so that a field that a later version adds is noticed."""
    found = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    messages = {}
    while waiting:
        message = waiting.pop()
        if message.name not in messages:
            messages[message.name] = message
            waiting += [field.message_type for field in message.fields if field.message_type]

    def leads(message, above=frozenset()) -> bool:
        if message.name == "TensorProto":
            return True
        inner = [f.message_type for f in message.fields if f.message_type and f.message_type.name not in above]
        return any(leads(item, above | {message.name}) for item in inner)

    for name, message in messages.items():
        fields = {f.number: f.message_type.name for f in message.fields if f.message_type}
        fields = {n: kind for n, kind in fields.items() if leads(messages[kind])}
        if fields and name != "TensorProto":
            found[name] = fields
        once = {f.number for f in message.fields if f.number in fields and not f.is_repeated}
        assert onnx_external._ONCE.get(name, set()) == once or name == "TensorProto"
    assert found == onnx_external._CHILDREN


def test_what_onnx_writes_is_taken(tmp_path: Path):
    proto = model(tensor("a"), tensor("b"))
    onnx.save(proto, tmp_path / "plain.onnx")
    onnx_external.check((tmp_path / "plain.onnx").read_bytes(), "plain.onnx", {})
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    size = (tmp_path / "model.onnx.data").stat().st_size
    data = (tmp_path / "model.onnx").read_bytes()
    onnx_external.check(data, "model.onnx", {"model.onnx.data": size})
    with pytest.raises(ArtifactRefused, match=r"has external data past the end of 'model.onnx.data'"):
        onnx_external.check(data, "model.onnx", {"model.onnx.data": size - 1})
    with pytest.raises(ArtifactRefused, match=r"external data in 'model.onnx.data', which the manifest does not list"):
        onnx_external.check(data, "model.onnx", {})


@pytest.mark.parametrize(
    ("external", "reason"),
    [
        ({"location": "../secret"}, "has external data at '../secret'; only 'model.onnx.data', beside it, is"),
        ({"location": "a/../model.onnx.data"}, "has external data at 'a/../model.onnx.data'"),
        ({"location": "/etc/passwd"}, "has external data at '/etc/passwd'"),
        ({"location": "*/_ORT_MEM_ADDR_/*"}, "has external data at"),
        ({"location": "evidence.json"}, "has external data at 'evidence.json'"),
        ({"location": ""}, "has external data at ''"),
        ({"length": 49}, "past the end of 'model.onnx.data': bytes 0 to 49 of 48"),
        ({"offset": 48, "length": 1}, "bytes 48 to 49 of 48"),
        ({"offset": 2**62, "length": 2**62}, "whose offset is '4611686018427387904', not a whole number"),
        ({"length": -1}, "whose length is '-1', not a whole number"),
        ({"offset": -48}, "whose offset is '-48', not a whole number"),
        ({"basepath": "/"}, "has external data with the unknown key 'basepath'"),
    ],
)
def test_external_data_elsewhere_is_refused(external, reason):
    with pytest.raises(ArtifactRefused, match=f"model.onnx .*{reason}"):
        check(model(tensor(**external)))


@pytest.mark.parametrize("key", ["__class__", "location\x00", "LOCATION", "checksum", ""])
def test_unknown_keys_are_refused(key):
    proto = model(tensor(offset=0))
    entry = proto.graph.initializer[0].external_data.add()
    entry.key, entry.value = key, "x"
    with pytest.raises(ArtifactRefused, match="external data with the unknown key"):
        check(proto)


def test_keys_given_twice_are_refused():
    proto = model(tensor(offset=0))
    entry = proto.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    with pytest.raises(ArtifactRefused, match="has external data with 'location' twice"):
        check(proto)


def test_marked_as_external_without_saying_where_is_refused():
    found = tensor()
    found.data_location = TensorProto.EXTERNAL
    with pytest.raises(ArtifactRefused, match="has external data at ''"):
        check(model(found))


HIDDEN = {
    "attribute": lambda t: model(nodes=[helper.make_node("Constant", [], ["y"], value=t)]),
    "tensors": lambda t: model(nodes=[helper.make_node("X", [], ["y"], values=[t, t])]),
    "branch": lambda t: model(
        nodes=[helper.make_node("If", ["c"], ["y"], then_branch=model(t).graph, else_branch=model().graph)]
    ),
    "graphs": lambda t: model(nodes=[helper.make_node("X", [], ["y"], bodies=[model(t).graph])]),
    "sparse": lambda t: model(sparse_initializer=[onnx.SparseTensorProto(values=t)]),
    "indices": lambda t: model(sparse_initializer=[onnx.SparseTensorProto(indices=t)]),
    "sparse attribute": lambda t: model(
        nodes=[helper.make_node("Constant", [], ["y"], sparse_value=onnx.SparseTensorProto(values=t))]
    ),
    "function": lambda t: helper.make_model(
        model().graph,
        functions=[helper.make_function("d", "f", [], ["y"], [helper.make_node("Constant", [], ["y"], value=t)], [])],
    ),
    "training": lambda t: onnx.ModelProto(
        graph=model().graph, training_info=[onnx.TrainingInfoProto(initialization=model(t).graph)]
    ),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_external_data_is_found_wherever_it_hides(place):
    with pytest.raises(ArtifactRefused, match=r"has external data at '../secret'"):
        check(HIDDEN[place](tensor(location="../secret")))
    with pytest.raises(ArtifactRefused, match="in a tensor that is no initializer of the main graph"):
        check(HIDDEN[place](tensor(offset=0)))
    check(HIDDEN[place](tensor()))


def test_messages_that_protobuf_would_merge_are_refused():
    """Two halves of one tensor, each harmless, are one tensor to protobuf."""
    data = model(tensor()).SerializeToString() + model(tensor()).SerializeToString()
    assert len(onnx.load_from_string(data).graph.initializer) == 2
    with pytest.raises(ArtifactRefused, match=r"model.onnx has field 7 of a ModelProto twice"):
        onnx_external.check(data, "model.onnx", SIZES)


def test_deep_nesting_is_refused():
    graph = model(tensor(location="../secret")).graph
    for _ in range(30):
        node = helper.make_node("If", ["c"], ["y"])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph)
        graph = helper.make_graph([node], "g", [], [])
    with pytest.raises(ArtifactRefused, match=r"model.onnx is nested more than 64 deep"):
        check(helper.make_model(graph))


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x3a", "it ends within a number"),
        (b"\x3a\x05ab", "a field is longer than what holds it"),
        (b"\x3a" + b"\xff" * 11, "a number has more than ten bytes"),
        (b"\x3b\x3c", "wire type 3"),
        (b"\x38\x01", "field 7 of a ModelProto is no message"),
        (varint((1 << 32) | (7 << 3) | 2) + b"\x00", "a field's number is too large"),
        (b"\x00\x00\x00\x00ORTM", "is in ONNX Runtime's own format, not an ONNX model"),
    ],
)
def test_bytes_that_are_no_model_are_refused(data, reason):
    with pytest.raises(ArtifactRefused, match=reason):
        onnx_external.check(data, "model.onnx", SIZES)


def external_locations(proto) -> set[str]:
    """Every location in a message, found naively."""
    found = set()
    if isinstance(proto, TensorProto):
        found |= {entry.value for entry in proto.external_data if entry.key == "location"}
        if proto.data_location == TensorProto.EXTERNAL and not found:
            found.add("")
    for field, value in proto.ListFields():
        if field.message_type:
            for item in value if field.is_repeated else [value]:
                found |= external_locations(item)
    return found


BASE = HIDDEN["branch"](tensor(offset=0)).SerializeToString() + b"".join(
    onnx.ModelProto(functions=HIDDEN["function"](tensor(offset=0)).functions).SerializeToString() for _ in range(2)
)
GOOD = model(tensor(offset=0)).SerializeToString()


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([BASE, GOOD]), st.integers(0, 10**6), st.integers(0, 4), st.binary(max_size=4))
def test_what_passes_refers_to_nothing_else(data, where, old, new):
    """Whatever is done to a model's bytes: if the check lets it through, onnx finds no other location."""
    where %= len(data)
    data = data[:where] + new + data[where + old :]
    try:
        onnx_external.check(data, "model.onnx", SIZES)
    except ArtifactRefused:
        return
    try:
        proto = onnx.load_from_string(data)
    except Exception:  # noqa: BLE001  the oracle's own parser may refuse what the walk skips
        return
    assert external_locations(proto) <= {"model.onnx.data"}
