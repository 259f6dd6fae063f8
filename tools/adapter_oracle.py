"""Adapter files and the weights that they make, by the libraries that define them.

Used by make_adapter_golden.py; not a program.

A `Case` collects the tensors of one file and the merged weights of its model. What each module changes is computed by
PEFT (LoRA, rank-stabilised LoRA, DoRA) and LyCORIS (LoKr, LoHa, weight decomposition) on the matrix that the file
names; a fused matrix is put together of the base's rows, merged whole, and cut into rows again.
"""

import json

import peft
import torch
from lycoris.functional import general, loha, lokr
from safetensors.torch import load_file

STORED = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f8_e4m3": torch.float8_e4m3fn,
          "f8_e5m2": torch.float8_e5m2}
PEFT_NAMES = ("lora_A.weight", "lora_B.weight")
KOHYA_NAMES = ("lora_down.weight", "lora_up.weight")


def load_base(folder):
    """{name: float32 tensor} of a part's folder."""
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(file))
    return {name: tensor.float() for name, tensor in weights.items()}


class Layer(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.linear.weight.data.copy_(weight)


def merge_with_peft(weight, down, up, alpha, rslora=False, magnitude=None):
    """The weight that PEFT's own merge makes."""
    config = peft.LoraConfig(r=down.shape[0], lora_alpha=alpha, target_modules=["linear"], use_rslora=rslora,
                             use_dora=magnitude is not None)
    model = peft.get_peft_model(Layer(weight), config)
    layer = model.base_model.model.linear
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(down)
        layer.lora_B["default"].weight.copy_(up)
        if magnitude is not None:
            layer.lora_magnitude_vector["default"].weight.copy_(magnitude)
    return model.merge_and_unload().linear.weight.detach().clone()


class Case:
    """One adapter file in the making."""

    def __init__(self, name, base, seed):
        self.name, self.base, self.merged = name, base, {}
        self.tensors, self.metadata = {}, {}
        self.modules = 0  # that change a weight
        self.unmatched, self.duplicates, self.text_encoder = [], [], []
        self.generator = torch.Generator().manual_seed(seed)

    # What the cases write

    def random(self, *shape, scale=1.0, dtype="f32"):
        """A random tensor as it is stored, few enough bits for the repository."""
        values = (torch.randn(shape, generator=self.generator) * 16).round() / 16 * scale
        return values.to(STORED[dtype])

    def put(self, key, tensor):
        assert key not in self.tensors, key
        self.tensors[key] = tensor

    def weight(self, targets):
        """The matrix that a file names, of its rows: a target, or (target, first row, rows) one under another."""
        return torch.cat([self.current(t)[a:b] for t, a, b in self.rows(targets)])

    def current(self, target):
        return self.merged.get(target, self.base[target])

    def rows(self, targets):
        for target in targets:
            if isinstance(target, str):
                yield target, 0, self.base[target].shape[0]
            else:
                yield target[0], target[1], target[1] + target[2]

    def set_weight(self, targets, merged):
        begin = 0
        for target, a, b in self.rows(targets):
            whole = self.current(target).clone()
            whole[a:b] = merged[begin:begin + b - a]
            self.merged[target] = whole
            begin += b - a
        assert begin == merged.shape[0]
        self.modules += 1

    def lora(self, module, targets, rank=4, **how):
        """Adds a LoRA. how: names of the factors, `alpha` in the file, `config_alpha` outside it, rslora, dtype, conv,
        dora (None, "rows": [out, 1], "columns": [1, in], "vector": PEFT's), separate alpha's module name."""
        weight = self.weight(targets)
        dtype = how.get("dtype", "f32")
        down = self.random(rank, weight.shape[1], scale=0.125, dtype=dtype)
        up = self.random(weight.shape[0], rank, scale=0.125, dtype=dtype)
        down_name, up_name = how.get("names", PEFT_NAMES)
        shape = (1, 1) if how.get("conv") else ()
        self.put(f"{module}.{down_name}", down.reshape(*down.shape, *shape))
        self.put(f"{module}.{up_name}", up.reshape(*up.shape, *shape))
        alpha = how.get("alpha", how.get("config_alpha", rank))
        if "alpha" in how:
            self.put(how.get("alpha_module", module) + ".alpha", torch.tensor(float(alpha)))
        dora = how.get("dora")
        down, up = down.float(), up.float()
        if dora == "columns":
            length = self.lengths(weight, 0)
            self.put(f"{module}.dora_scale", length.reshape(1, -1))
            merged = general.weight_decompose(weight + up @ down * (alpha / rank), length.reshape(1, -1), 1, False)
        else:
            length = self.lengths(weight, 1) if dora else None
            if dora == "rows":
                self.put(f"{module}.dora_scale", length.reshape(-1, 1))
            elif dora:
                self.put(f"{module}.lora_magnitude_vector", length)
            merged = merge_with_peft(weight, down, up, alpha, how.get("rslora", False), length)
        self.set_weight(targets, merged)
        return down, up

    def lengths(self, weight, axis):
        length = weight.norm(dim=axis)
        return length * (1 + self.random(*length.shape, scale=0.125))

    def lokr(self, module, targets, left, right, **how):
        """Adds a LoKr. left, right: shapes of the factors; rank of the left and right ones, or none: in whole."""
        weight = self.weight(targets)
        factors = {}
        for name, (rows, columns), rank in (("w1", left, how.get("left_rank")), ("w2", right, how.get("right_rank"))):
            shapes = {name: (rows, columns)}
            if rank:
                shapes = {f"{name}_a": (rows, rank), f"{name}_b": (rank, columns)}
            for key, shape in shapes.items():
                factors[key] = self.random(*shape, scale=0.25)
                self.put(f"{module}.lokr_{key}", factors[key])
        rank = how.get("left_rank") or how.get("right_rank")
        alpha = how.get("alpha", rank or 1)
        if "alpha" in how:
            self.put(f"{module}.alpha", torch.tensor(float(alpha)))
        ordered = [factors.get(key) for key in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")]
        merged = weight + lokr.diff_weight(*ordered, None, gamma=float(alpha))
        if how.get("dora"):
            length = self.lengths(weight, 1).reshape(-1, 1)
            self.put(f"{module}.dora_scale", length)
            merged = general.weight_decompose(merged, length, 1, True)
        self.set_weight(targets, merged)

    def loha(self, module, targets, rank, alpha=None):
        weight = self.weight(targets)
        out, inputs = weight.shape
        factors = {}
        shapes = {"w1_a": (out, rank), "w1_b": (rank, inputs), "w2_a": (out, rank), "w2_b": (rank, inputs)}
        for name, shape in shapes.items():
            factors[name] = self.random(*shape, scale=0.25)
            self.put(f"{module}.hada_{name}", factors[name])
        if alpha is not None:
            self.put(f"{module}.alpha", torch.tensor(float(alpha)))
        delta = loha.diff_weight(factors["w1_b"], factors["w1_a"], factors["w2_b"], factors["w2_a"], None, None,
                                 gamma=(alpha or rank) / rank)
        self.set_weight(targets, weight + delta)

    def difference(self, module, targets, suffix="diff", bias=None):
        """Adds differences of a weight, and of a bias target."""
        if targets:
            weight = self.weight(targets)
            change = self.random(*weight.shape, scale=0.125)
            self.put(f"{module}.{suffix}", change)
            self.set_weight(targets, weight + change)
        if bias:
            change = self.random(*self.base[bias].shape, scale=0.125)
            self.put(f"{module}.diff_b", change)
            self.set_weight([bias], self.current(bias) + change)
            self.modules -= 1 if targets else 0

    def peft_config(self, prefix="", **fields):
        """Metadata as diffusers writes them."""
        self.metadata["lora_adapter_metadata"] = json.dumps({prefix + k: v for k, v in fields.items()}, sort_keys=True)

    # What the tests read

    def expected(self):
        """{name: tensor} of each changed weight: some rows, and every row's product with (1 + j / columns)."""
        tensors = {}
        for target, weight in sorted(self.merged.items()):
            matrix = weight.double().reshape(weight.shape[0], -1)
            ramp = 1 + torch.arange(matrix.shape[1], dtype=torch.float64) / matrix.shape[1]
            rows = sorted({0, matrix.shape[0] // 2, matrix.shape[0] - 1})
            tensors[f"{self.name}/{target}#rows"] = matrix[rows].float()
            tensors[f"{self.name}/{target}#products"] = (matrix @ ramp).float()
        return tensors

    def about(self):
        return {"modules": self.modules, "targets": len(self.merged), "unmatched": sorted(self.unmatched),
                "duplicates": sorted(self.duplicates), "text_encoder": sorted(self.text_encoder)}
