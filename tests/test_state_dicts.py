"""state_dicts of any tree of objects: drawn, changed, compared. With NumPy alone; what needs torch says so."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from weighlock import state_dicts as sd
from weighlock.pickling.inert import GlobalRef, Stub


class Layer:
    def __init__(self, rows=2):
        self.weight = np.zeros((rows, 3), "float32")
        self.bias = np.zeros(rows, "float32")
        self.name = "a layer"
        self.rows = rows
        self._cache = np.ones(5)


@dataclasses.dataclass
class Net:
    layers: list
    heads: dict
    scale: np.ndarray


class Slots:
    __slots__ = ("a", "b")

    def __init__(self):
        self.b, self.a = np.ones(1), np.zeros(1)


def net():
    return Net([Layer(2), Layer(4)], {"main": Layer(1)}, np.ones(1))


def module_stub(weights):
    """A pickled module with one submodule, as a file describes it."""
    stub = Stub(GlobalRef("nets", "Net"))
    inner = Stub(GlobalRef("torch.nn", "Linear"))
    own = {name.partition(".")[2]: value for name, value in weights.items() if name.startswith("fc.")}
    inner.state = {"_parameters": own, "_buffers": {}, "_modules": {}}
    others = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    stub.state = {"_parameters": others, "_buffers": {}, "_modules": {"fc": inner}}
    return stub


class TestDrawing:
    def test_names_follow_attributes_indices_and_keys(self):
        assert list(wl.state_dict(net())) == [
            "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias",
            "heads.main.weight", "heads.main.bias", "scale",
        ]  # fmt: skip

    def test_the_arrays_themselves(self):
        made = net()
        assert wl.state_dict(made)["layers.1.bias"] is made.layers[1].bias

    def test_slots_and_tuples_and_integer_keys(self):
        drawn = wl.state_dict({"s": Slots(), "t": (np.ones(1), {7: np.ones(2)})})
        assert list(drawn) == ["s.a", "s.b", "t.0", "t.1.7"]

    def test_layers_that_can_be_called_hold_state_and_functions_do_not(self):
        def function():
            pass

        function.__dict__["weight"] = np.ones(1)

        class Called(Layer):
            def __call__(self, values):
                return values

        drawn = wl.state_dict({"a": Called(1), "f": function, "m": Called(1).__call__, "n": len})
        assert list(drawn) == ["a.weight", "a.bias"]

    def test_numbers_are_no_state(self):
        assert list(wl.state_dict({"lr": np.float32(0.1), "n": 3, "deep": {"w": np.ones(1)}})) == ["deep.w"]

    def test_an_object_at_two_places(self):
        layer = Layer()
        drawn = wl.state_dict({"a": layer, "b": layer})
        assert drawn["a.weight"] is drawn["b.weight"]

    def test_an_object_that_contains_itself(self):
        made: Any = Layer()
        made.child = {"up": made}
        with pytest.raises(wl.StateDictError, match=r"contains itself \(object child.up\)"):
            wl.state_dict(made)

    def test_a_deep_tree(self):
        root: Any = {"w": np.ones(1)}
        for _ in range(10_000):
            root = {"n": root}
        (name,) = wl.state_dict({"x": root})
        assert name.count("n.") == 10_000

    def test_nothing_to_draw(self):
        for obj in (3, "text", {}, {"a": 1}, [1, 2], Slots):
            with pytest.raises(wl.StateDictError, match="no state_dict can be drawn"):
                wl.state_dict(obj)

    def test_objects_with_a_method_of_their_own_inside(self):
        class Own:
            def state_dict(self):
                return {"x": np.ones(1)}

        assert list(wl.state_dict([Own(), np.ones(2)])) == ["0.x", "1"]


class TestLoading:
    def test_values_are_copied_into_place(self):
        made, kept = net(), {}
        state = {key: np.full_like(value, 5) for key, value in wl.state_dict(made).items()}
        kept = wl.state_dict(made)
        result = wl.load_state_dict(made, state)
        assert repr(result) == "<All keys matched successfully>"
        assert all(wl.state_dict(made)[key] is kept[key] for key in kept)
        assert all((value == 5).all() for value in kept.values())

    def test_arrays_are_assigned(self):
        made = net()
        state = {key: np.full_like(value, 5) for key, value in wl.state_dict(made).items()}
        wl.load_state_dict(made, state, assign=True)
        assert all(wl.state_dict(made)[key] is state[key] for key in state)

    def test_the_round_trip_of_a_mapping_with_a_holder(self):
        made: Any = {"epoch": 1, "model": {"layers": [{"w": np.zeros(2)}]}}
        state = {key: value + 1 for key, value in wl.state_dict(made).items()}
        wl.load_state_dict(made, state)
        assert made["model"]["layers"][0]["w"].tolist() == [1.0, 1.0]

    def test_everything_that_differs_is_named_and_nothing_is_loaded(self):
        made = net()
        state = {key: value + 1 for key, value in wl.state_dict(made).items()}
        state["layers.0.weight"] = np.ones((3, 2), "float32")
        state["extra"] = np.ones(1)
        del state["scale"]
        with pytest.raises(wl.StateDictMismatchError) as caught:
            wl.load_state_dict(made, state)
        error = caught.value
        assert isinstance(error, RuntimeError)
        assert (error.missing, error.unexpected) == (["scale"], ["extra"])
        assert "layers.0.weight: expected float32[2, 3], got float32[3, 2] (transposed)" in str(error)
        assert not any(value.any() for key, value in wl.state_dict(made).items() if key != "scale")

    def test_strict_false_reports(self):
        made = net()
        missing, unexpected = wl.load_state_dict(made, {"scale": np.zeros(1), "x": np.ones(1)}, strict=False)
        assert len(missing) == 6
        assert unexpected == ["x"]
        assert made.scale.tolist() == [0.0]

    def test_shapes_must_fit_in_any_case(self):
        made = net()
        with pytest.raises(wl.StateDictMismatchError, match="of another shape"):
            wl.load_state_dict(made, {"scale": np.zeros((2, 2))}, strict=False)

    def test_types_are_cast_and_named(self):
        made = net()
        result = wl.load_state_dict(made, {"scale": np.full(1, 0.5, "float16")}, strict=False)
        assert made.scale.dtype == np.float64
        assert [(entry.key, entry.expected_dtype, entry.found_dtype) for entry in result.mismatched] == [
            ("scale", "float64", "float16")
        ]

    def test_values_that_have_no_form_there(self):
        made = {"n": np.zeros(2, "int32"), "w": np.zeros(1)}
        with pytest.raises(wl.StateDictError, match="no form"):
            wl.load_state_dict(made, {"w": np.ones(1), "n": np.full(2, 0.5)})
        assert made["w"].tolist() == [0.0]

    def test_read_only_arrays_are_found_first(self):
        made = {"a": np.zeros(1), "b": np.zeros(1)}
        made["b"].flags.writeable = False
        with pytest.raises(wl.StateDictError, match="read-only"):
            wl.load_state_dict(made, {"a": np.ones(1), "b": np.ones(1)})
        assert made["a"].tolist() == [0.0]
        wl.load_state_dict(made, {"a": np.ones(1), "b": np.ones(1)}, assign=True)
        assert made["b"].tolist() == [1.0]

    def test_a_failure_half_way_is_undone(self):
        class Refuses(np.ndarray):
            def __setitem__(self, key, value):
                raise OSError("no")

        made = {"a": np.zeros(2), "b": np.zeros(2).view(Refuses)}
        with pytest.raises(wl.StateDictError):
            wl.load_state_dict(made, {"a": np.ones(2), "b": np.ones(2)})
        assert made["a"].tolist() == [0.0, 0.0]

    def test_tuples_take_values_but_no_arrays(self):
        made = {"t": (np.zeros(1),)}
        with pytest.raises(wl.StateDictError, match="nothing can be assigned"):
            wl.load_state_dict(made, {"t.0": np.ones(1)}, assign=True)
        wl.load_state_dict(made, {"t.0": np.ones(1)})
        assert made["t"][0].tolist() == [1.0]

    @pytest.mark.parametrize("wrong", ["model.pth", b"model.pth", None, [1], net()])
    def test_what_is_no_mapping(self, wrong):
        with pytest.raises(TypeError, match="a state_dict is a mapping"):
            wl.load_state_dict(net(), wrong)


class TestAdvice:
    def expected(self):
        return {f"layer{i}.weight": np.zeros((2, 3)) for i in range(30)}

    def advice(self, mapping):
        return " | ".join(sd.match(mapping, self.expected()).advice)

    @pytest.mark.parametrize(
        ("prefix", "reason"),
        [("module.", "DataParallel"), ("_orig_mod.", "torch.compile"), ("model.", "wrapper"), ("a.b.", "a.b.")],
    )
    def test_a_prefix_too_many(self, prefix, reason):
        mapping = sd.add_prefix(self.expected(), prefix)
        advice = self.advice(mapping)
        assert f"all 30 keys carry the prefix '{prefix}'" in advice
        assert reason in advice
        assert f"weighlock.state_dicts.strip_prefix(mapping, '{prefix}') makes 30 of 30 match" in advice
        assert sd.match(sd.strip_prefix(mapping, prefix), self.expected()).ok

    def test_a_prefix_too_few(self):
        mapping = {key.removeprefix("layer"): value for key, value in self.expected().items()}
        report = sd.match(mapping, sd.add_prefix(mapping, "net."))
        assert "add_prefix(mapping, 'net.') makes 30 of 30 match" in str(report)

    def test_weights_that_lie_deeper(self):
        advice = self.advice({"epoch": 3, "model_state_dict": self.expected(), "optimizer": {}})
        assert "the weights lie under 'model_state_dict'" in advice
        assert "makes 30 of 30 match" in advice

    def test_weights_that_lie_deeper_with_a_prefix(self):
        """It said that ``mapping['state_dict']`` makes 0 of 30 match."""
        advice = self.advice({"epoch": 3, "state_dict": sd.add_prefix(self.expected(), "module."), "x": np.zeros(1)})
        call = "weighlock.state_dicts.strip_prefix(mapping['state_dict'], 'module.')"
        assert f"the weights lie under 'state_dict': {call} makes 30 of 30 match" in advice
        assert " 0 of 30" not in advice

    def test_weights_that_lie_much_deeper(self):
        advice = self.advice({"trainer": {"parts": [{"net": self.expected()}]}, "optimizer": {"x": np.zeros(1)}})
        assert "under 'trainer.parts.0.net': mapping['trainer']['parts'][0]['net'], or" in advice

    def test_the_place_where_they_fit_and_not_the_first_one(self):
        advice = self.advice({"scaler": {"scale": np.zeros(())}, "G_ema": self.expected()})
        assert advice.startswith("the weights lie under 'G_ema'")
        assert "scaler" not in advice

    def test_a_checkpoint_of_something_else(self):
        advice = self.advice({"D": {"x": np.zeros(2)}, "G": {"y": np.zeros(2), "z": np.zeros(2)}, "epoch": 1})
        assert advice.endswith("weights lie in 'G' (2 tensors), 'D' (1 tensors)")
        assert "match" not in advice

    @pytest.mark.parametrize("outer", ["", "module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
    def test_parts_that_were_wrapped(self, outer):
        """Of nested wrappers it named the first only, or advised to put a prefix before what fitted already."""
        wrapped = {"layer3": "layer3._checkpoint_wrapped_module", "layer4": "layer4._fsdp_wrapped_module"}
        mapping = {}
        for name, value in self.expected().items():
            head, _, tail = name.partition(".")
            mapping[f"{outer}{wrapped.get(head, head)}.{tail}"] = value
        advice = sd.match(mapping, self.expected()).advice
        assert len(advice) == 1
        assert "activation checkpointing" in advice[0]
        call = advice[0].partition("; ")[2].partition(" makes 30 of 30 match")[0]
        mended = eval(call, {"weighlock": wl, "mapping": mapping, "re": re})  # the advice is code
        assert sd.match(mended, self.expected()).ok

    def test_a_prefix_before_what_fits_is_no_advice(self):
        names = [*(f"b.{n}" for n in range(8)), "a.b.x"]
        report = sd.match(dict.fromkeys([*names[:8], "b.x"], 1), dict.fromkeys(names, (1,)))
        assert report.advice == []

    def test_a_module_in_a_checkpoint(self):
        report = sd.match({"epoch": 1, "model": module_stub(self.expected())}, self.expected())
        assert report.advice == [
            "the weights lie under 'model': weighlock.state_dict(mapping['model']) makes 30 of 30 match"
        ]
        with pytest.raises(wl.ArgumentTypeError, match=r"weighlock.state_dict\(obj\)"):
            sd.match(module_stub({}), {"a": (1,)})

    def test_another_shape_is_no_match(self):
        """Of a model of other classes, under a prefix too, it promised that all would match."""
        mapping = self.expected() | {"layer3.weight": np.zeros((5, 3))}
        assert self.advice(sd.add_prefix(mapping, "module.")).endswith("30 of 30 match, 1 of them with another shape")
        assert self.advice({"epoch": 1, "state_dict": mapping}).endswith("30 of 30 match, 1 of them with another shape")
        deep = self.advice({"epoch": 1, "state_dict": sd.add_prefix(mapping, "net.")})
        assert deep.endswith("30 of 30 match, 1 of them with another shape")
        inner = sd.match(sd.add_prefix(mapping, "a."), sd.add_prefix(self.expected(), "net.a."))
        assert inner.advice[0].endswith("30 of 30 match, 1 of them with another shape")

    def test_an_optimizer(self):
        state = {n: {"exp_avg": np.zeros(3)} for n in range(9)}
        advice = self.advice({"state": state, "param_groups": [{"lr": 1}]})
        assert advice == "the mapping is the state of an optimizer (state, param_groups), and holds no weights"

    def test_a_lora_adapter(self):
        factors = {f"base_model.model.layer{n}.lora_{x}.weight": np.zeros((2, 2)) for n in range(3) for x in "AB"}
        assert "all 6 keys are factors of a LoRA adapter" in self.advice(factors)

    def test_a_model_with_adapters(self):
        mapping = {f"base_model.model.layer{n}.base_layer.weight": np.zeros((2, 3)) for n in range(20)}
        mapping |= {f"base_model.model.layer{n}.weight": np.zeros((2, 3)) for n in range(20, 30)}
        advice = self.advice(mapping)
        assert "an adapter of peft" in advice
        call = advice.partition("; ")[2].partition(" makes 30 of 30 match")[0]
        mended = eval(call, {"weighlock": wl, "mapping": mapping, "re": re})  # the advice is code
        assert sd.match(mended, self.expected()).ok

    def test_names_that_have_nothing_in_common(self):
        assert self.advice({"x": np.zeros(1)}) == ""

    @pytest.mark.parametrize(
        ("expected", "found", "why"),
        [((2, 3), (3, 2), "transposed"), ((6,), (2, 3), "same number"), ((4, 3), (1, 3), "broadcast"),
         ((10, 5), (1000, 5), "outputs")],
    )  # fmt: skip
    def test_shapes(self, expected, found, why):
        assert why in str(sd.match({"w": np.zeros(found)}, {"w": expected}))

    def test_a_single_element_for_a_number(self):
        assert sd.match({"n": np.zeros(1)}, {"n": np.zeros(())}).ok

    def test_long_lists_are_cut(self):
        text = str(sd.match({}, self.expected()))
        assert "30 missing: layer0.weight" in text
        assert "and 20 more" in text

    def test_hostile_names_are_escaped(self):
        assert "\x1b" not in str(sd.match({"\x1b[31m": np.zeros(1)}, {"a": (1,)}))


class TestNames:
    def test_strip_and_add(self):
        mapping: Any = OrderedDict({"m.a": 1, "m.b": 2, "c": 3})
        mapping._metadata = {"m": {"version": 2}, "m.x": {}, "c": {}}
        stripped: Any = sd.strip_prefix(mapping, "m.")
        assert dict(stripped) == {"a": 1, "b": 2, "c": 3}
        assert list(stripped._metadata) == ["", "x", "c"]
        added: Any = sd.add_prefix(stripped, "m.")
        assert list(added) == ["m.a", "m.b", "m.c"]
        assert list(added._metadata) == ["m", "m.x", "m.c"]

    def test_a_prefix_that_is_not_there(self):
        with pytest.raises(wl.StateDictError, match="no name has the prefix"):
            sd.strip_prefix({"a": 1}, "module.")

    def test_names_that_would_collide(self):
        with pytest.raises(wl.StateDictError, match=r"'m.a' and 'a' -> 'a'"):
            sd.strip_prefix({"m.a": 1, "a": 2}, "m.")

    def test_rename_by_name_pattern_and_expression(self):
        mapping = {"block0.conv.w": 1, "block1.conv.w": 2, "fc": 3, "bn12": 4}
        rules = [("block*.conv.*", "layers.*.*"), ("fc", "head"), (re.compile(r"^bn(\d)(\d)$"), r"norm.\1.\2")]
        assert dict(sd.rename(mapping, rules)) == {"layers.0.w": 1, "layers.1.w": 2, "head": 3, "norm.1.2": 4}

    def test_rules_that_make_no_sense(self):
        with pytest.raises(wl.StateDictError, match="fits no name"):
            sd.rename({"a": 1}, {"b": "c"})
        with pytest.raises(wl.ArgumentError, match=r"as many \*"):
            sd.rename({"a": 1}, {"a*": "c"})
        with pytest.raises(wl.ArgumentTypeError):
            sd.rename({"a": 1}, [(3, "c")])

    def test_select(self):
        mapping = {"a.weight": 1, "a.bias": 2, "head.weight": 3, "head.bias": 4}
        assert list(sd.select(mapping, "*.weight")) == ["a.weight", "head.weight"]
        assert list(sd.select(mapping, exclude=["head.*", re.compile("^a.b")])) == ["a.weight"]
        assert list(sd.select(mapping, lambda key: "." in key, exclude="a.bias")) == [
            "a.weight",
            "head.weight",
            "head.bias",
        ]
        assert list(sd.select(mapping, "a.bias")) == ["a.bias"]

    def test_merge(self):
        one, other = np.ones(1), np.zeros(1)
        assert list(sd.merge({"a": one}, {"b": other, "a": one})) == ["a", "b"]
        with pytest.raises(wl.StateDictError, match="two mappings"):
            sd.merge({"a": one}, {"a": other})
        assert sd.merge({"a": one}, {"a": other}, on_conflict="first")["a"] is one
        assert sd.merge({"a": one}, {"a": other}, on_conflict="last")["a"] is other

    def test_the_tensors_are_never_copied(self):
        mapping = {"m.a": np.ones(1)}
        for made in (sd.strip_prefix(mapping, "m."), sd.add_prefix(mapping, "x."), sd.rename(mapping, {"m.a": "b"}),
                     sd.select(mapping), sd.merge(mapping)):  # fmt: skip
            assert next(iter(made.values())) is mapping["m.a"]


class TestCasting:
    def test_only_floats_unless_asked(self):
        mapping = {"w": np.ones(2, "float32"), "n": np.arange(2), "b": np.array([True]), "text": "kept"}
        made = sd.cast(mapping, "float16")
        assert [str(made[key].dtype) for key in "wnb"] == ["float16", "int64", "bool"]
        assert made["text"] == "kept"
        assert sd.cast(mapping, np.dtype("float64"), integers=True)["n"].dtype == np.float64

    def test_bfloat16(self):
        made = sd.cast({"w": np.array([1.5, 3.0], "float32")}, "bfloat16")["w"]
        assert str(made.dtype) == "bfloat16"
        assert made.astype("float32").tolist() == [1.5, 3.0]

    def test_what_shared_memory_shares_it_again(self):
        base = np.arange(12, dtype="float32").reshape(3, 4)
        mapping = {"base": base, "row": base[1], "column": base[:, 2], "again": base, "other": np.ones(2, "float32")}
        made = sd.cast(mapping, "float64")
        assert all(np.array_equal(made[key], mapping[key]) for key in mapping)
        made["base"][1, 2] = 99
        assert made["row"][2] == made["column"][1] == made["again"][1, 2] == 99
        assert not np.may_share_memory(made["other"], made["base"])

    def test_neighbours_in_memory_stay_apart(self, tmp_path):
        wl.save({"a": np.ones(3, "float32"), "b": np.zeros(2, "float32")}, tmp_path / "x.pt")
        made = sd.cast(wl.load(tmp_path / "x.pt"), "float64")
        assert not np.may_share_memory(made["a"], made["b"])
        assert (made["a"].tolist(), made["b"].tolist()) == ([1.0] * 3, [0.0] * 2)

    @pytest.mark.parametrize("source", ["float32", "float16", "bfloat16", "float64", "int32", "float8_e5m2"])
    def test_too_large_for_float8(self, source, tmp_path, torch):
        """It was NaN where PyTorch gives the largest number: in each of the places where arrays are cast."""
        numbers = [0, 1, 448, 500, -500, 30_000]
        tensor = torch.tensor(numbers, dtype=getattr(torch, source))
        if tensor.is_floating_point():
            tensor = torch.cat([tensor, torch.tensor([float("inf"), float("-inf"), float("nan")]).to(tensor.dtype)])
        expected = tensor.to(torch.float8_e4m3fn).float().numpy()
        torch.save({"w": tensor}, tmp_path / "a.pt")
        array = wl.load(tmp_path / "a.pt")["w"]
        casts = [sd.cast({"w": array}, "float8_e4m3fn", integers=True)["w"]]
        casts.append(wl.open_checkpoint(tmp_path / "a.pt")["w"].read(dtype="float8_e4m3fn"))
        if tensor.is_floating_point():
            casts.append(wl.load(tmp_path / "a.pt", dtype="float8_e4m3fn")["w"])
            wl.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype="float8_e4m3fn")
            casts.append(wl.load(tmp_path / "b.pt")["w"])
        for made in casts:
            assert made.dtype.name == "float8_e4m3fn"
            np.testing.assert_array_equal(made.astype("f4"), expected)

    def test_short_names(self):
        weights = {"w": np.ones(2)}
        names = [sd.cast(weights, short)["w"].dtype.name for short in ("fp16", "fp32", "bf16")]
        assert names == ["float16", "float32", "bfloat16"]

    def test_an_unknown_type(self):
        with pytest.raises(wl.ArgumentError, match="unknown element type"):
            sd.cast({"w": np.ones(1)}, "float13")


class TestFinding:
    def test_usual_names_first(self):
        weights, other = {"fc.weight": np.ones(1)}, {f"x{i}": np.ones(1) for i in range(9)}
        assert sd.find_state_dict({"ema_cache": other, "model": weights}) is weights
        assert sd.find_state_dict({"trainer": [{"state_dict": weights}], "cache": other}) is weights

    def test_else_the_most_tensors(self):
        weights = {f"w{i}": np.ones(1) for i in range(9)}
        assert sd.find_state_dict({"a": weights, "b": {"x": np.ones(1)}}) is weights

    def test_itself(self):
        weights = {"w": np.ones(1), "model": np.ones(2)}
        assert sd.find_state_dict(weights) is weights

    @pytest.mark.parametrize("beside", [
        {"step": np.array(5)}, {"best_acc": np.array(0.5)}, {"step": np.array([5]), "rng_state": np.zeros(99, "uint8")},
        {"global_step": np.array(3), "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": []}},
    ])  # fmt: skip
    @pytest.mark.parametrize("name", ["model", "state_dict", "params_ema", "network_weights"])
    def test_numbers_that_trainers_keep_as_tensors(self, beside, name):
        """A step that is a tensor made the whole checkpoint a state_dict with the two entries step and model."""
        weights = {"fc.weight": np.ones((2, 2)), "fc.bias": np.ones(2)}
        for checkpoint in ({**beside, name: weights}, {name: weights, **beside}):
            assert sd.find_state_dict(checkpoint) is weights
            assert dict(wl.state_dict(checkpoint)) == weights

    def test_parameters_beside_a_usual_name_are_not_lost(self):
        tree = {"model": {"w": np.ones(2)}, "temperature": np.array(0.5)}
        assert list(wl.state_dict(tree)) == ["model.w", "temperature"]

    def test_averages_in_a_list_have_no_names(self):
        weights = {"fc.weight": np.ones(2)}
        checkpoint = {"ema": {"decay": 0.9, "shadow_params": [np.ones(2)]}, "model": weights}
        assert sd.find_state_dict(checkpoint) is weights
        assert dict(wl.state_dict(checkpoint)) == weights

    def test_a_usual_name_without_tensors(self):
        weights = {"fc.weight": np.ones(2)}
        others: list[Any] = [{}, [], {"name": "resnet", "layers": [1, 2]}, "resnet", None]
        for other in others:
            assert dict(wl.state_dict({"state_dict": other, "model": weights})) == weights
            assert sd.find_state_dict({"state_dict": other, "model": weights}) is weights

    def test_the_outermost(self):
        weights = {"fc.weight": np.ones(2)}
        assert sd.find_state_dict({"callbacks": {"x": {"state_dict": {"a": np.ones(1)}}}, "model": weights}) is weights

    def test_behind_a_long_history(self):
        weights = {"fc.weight": np.ones(2)}
        assert sd.find_state_dict({"losses": [0.5] * 20_000, "steps": list(range(20_000)), "m": weights}) is weights

    def test_a_pickled_module(self):
        """Its parts were counted as mappings of their own, and several were an error."""
        weights = {"fc.weight": np.ones(2), "fc.bias": np.ones(2)}
        for holder in (module_stub(weights), {"model": module_stub(weights), "optimizer": {}}):
            assert dict(sd.find_state_dict(holder)) == weights

    def test_optimizers_are_not_drawn(self):
        weights, state = {"w": np.ones(2)}, {"state": {0: {"exp_avg": np.ones(2)}}, "param_groups": []}
        checkpoint = {"G": weights, "D": {"w": np.ones(2)}, "optimizers": [state, state]}
        assert list(wl.state_dict(checkpoint)) == ["G.w", "D.w"]
        assert wl.load_state_dict(checkpoint, wl.state_dict(checkpoint)).missing_keys == []
        assert list(wl.state_dict({"optimizer": state})) == ["optimizer.state.0.exp_avg"]

    def test_none_or_several(self):
        with pytest.raises(wl.StateDictError, match="no mapping"):
            sd.find_state_dict({"a": 1})
        with pytest.raises(wl.StateDictError, match=r"several .*left \(1 tensors\), right \(1 tensors\)"):
            sd.find_state_dict({"left": {"w": np.ones(1)}, "right": {"w": np.ones(1)}})


@pytest.mark.requires_torch
class TestTorch:
    def model(self, torch):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))

    def test_a_module_is_asked_itself(self, torch):
        model = self.model(torch)
        assert list(wl.state_dict(model)) == list(model.state_dict())
        assert vars(wl.state_dict(model)) == vars(model.state_dict())

    def test_numpy_arrays_go_into_modules(self, torch, tmp_path):
        one, other = self.model(torch), self.model(torch)
        with torch.no_grad():
            one[0].weight += 1
        torch.save(one.state_dict(), tmp_path / "m.pt")
        assert wl.load_state_dict(other, wl.load(tmp_path / "m.pt")) == ([], [])
        assert torch.equal(other[0].weight, one[0].weight)

    def test_bfloat16_arrays_too(self, torch, tmp_path):
        one, other = torch.nn.Linear(2, 2).bfloat16(), torch.nn.Linear(2, 2).bfloat16()
        torch.save(one.state_dict(), tmp_path / "m.pt")
        wl.load_state_dict(other, wl.load(tmp_path / "m.pt"))
        assert torch.equal(one.weight, other.weight)

    @pytest.mark.parametrize("assign", [False, True])
    @pytest.mark.parametrize("strict", [False, True])
    def test_nothing_is_half_loaded(self, torch, strict, assign):
        model = self.model(torch)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        own = dict(model.named_parameters())
        state = {key: torch.full_like(value, 3) for key, value in before.items()}
        state["2.weight"] = torch.ones(5, 5)
        with pytest.raises(RuntimeError, match=r"2.weight: expected float32\[2, 2\], got float32\[5, 5\]") as caught:
            wl.load_state_dict(model, state, strict=strict, assign=assign)
        assert "Error(s) in loading state_dict for Sequential" in str(caught.value)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(parameter is own[name] for name, parameter in model.named_parameters())

    def test_stock_torch_would_have_loaded_half(self, torch):
        """The check above can fail: torch itself copies what fits before it raises."""
        model = self.model(torch)
        state = {key: torch.full_like(value, 3) for key, value in model.state_dict().items()}
        state["2.weight"] = torch.ones(5, 5)
        with pytest.raises(RuntimeError):
            model.load_state_dict(state)
        assert (model[0].weight == 3).all()

    def test_prefix_of_data_parallel(self, torch):
        model = self.model(torch)
        state = torch.nn.DataParallel(model).state_dict()
        with pytest.raises(wl.StateDictMismatchError, match=r"strip_prefix\(mapping, 'module.'\) makes 9 of 9 match"):
            wl.load_state_dict(model, state)
        stripped: Any = sd.strip_prefix(state, "module.")
        assert stripped._metadata == model.state_dict()._metadata
        wl.load_state_dict(model, stripped)

    def test_a_module_that_mends_old_keys_itself(self, torch):
        """BatchNorm of before 0.4.1 has no num_batches_tracked: torch adds it, so it is not missing."""
        model = torch.nn.BatchNorm1d(2)
        state = OrderedDict((k, v) for k, v in model.state_dict().items() if k != "num_batches_tracked")
        assert wl.load_state_dict(model, state).missing_keys in ([], ["num_batches_tracked"])

    def test_code_that_raises_half_way_is_undone(self, torch):
        class Extra(torch.nn.Linear):  # type: ignore[name-defined]
            def set_extra_state(self, state):
                raise ValueError("not today")

            def get_extra_state(self):
                return 1

        model = torch.nn.Sequential(torch.nn.Linear(2, 2), Extra(2, 2))
        before = {key: value.clone() for key, value in model.named_parameters()}
        state = {k: v + 1 if isinstance(v, torch.Tensor) else v for k, v in model.state_dict().items()}
        with pytest.raises(wl.StateDictError, match="not today"):
            wl.load_state_dict(model, state)
        assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())

    def test_lazy_modules(self, torch):
        model = torch.nn.LazyLinear(2)
        wl.load_state_dict(model, torch.nn.Linear(3, 2).state_dict())
        assert model.weight.shape == (2, 3)

    def test_optimizers(self, torch):
        model = self.model(torch)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        state = wl.state_dict(optimizer)
        other = torch.optim.AdamW(self.model(torch).parameters(), lr=0.1)
        wl.load_state_dict(other, state)
        assert other.param_groups[0]["lr"] == 0.5
        with pytest.raises(wl.StateDictMismatchError, match="does not fit"):
            wl.load_state_dict(torch.optim.AdamW([torch.ones(1, requires_grad=True)]), state)

    def test_a_tree_with_modules_inside(self, torch):
        made = {"net": self.model(torch), "scale": np.zeros(1)}
        state = OrderedDict((key, value + 1) for key, value in wl.state_dict(made).items())
        assert "net.0.weight" in state
        wl.load_state_dict(made, state)
        assert made["scale"].tolist() == [1.0]
        assert torch.equal(made["net"][0].weight, state["net.0.weight"])

    def test_cast_keeps_tied_weights(self, torch):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
        model[1].weight = model[0].weight
        made = sd.cast(model.state_dict(), torch.float16)
        assert made["0.weight"].dtype is torch.float16
        assert made["0.weight"].data_ptr() == made["1.weight"].data_ptr()
        base = torch.arange(6.0)
        views = sd.cast({"a": base, "b": base[2:4]}, "bfloat16")
        views["a"][2] = 50
        assert views["b"][0] == 50
