"""Makes tiny adapter files of every style that people have, and what they make of the tiny models' weights.

    python tools/make_adapter_golden.py --out tests/data/adapters
    python tools/make_adapter_golden.py --folder OUT --model zimage --case kohya   # the whole merged model

Writes <model>/<case>.safetensors, <model>/expected.safetensors (rows and products of every changed weight, see
adapter_oracle.Case.expected) and adapters.json. Models: zimage is tests/data/tiny/varied, flux2 is
tests/data/klein_tiny/base. Needs peft and lycoris-lora beside the packages of the other tools.
"""

import argparse
import shutil
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"zimage": ROOT / "tests/data/tiny/varied", "flux2": ROOT / "tests/data/klein_tiny/base"}


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/adapters")
    parser.add_argument("--folder", type=Path, help="write one case's merged model in diffusers' layout, float32, here")
    parser.add_argument("--model", choices=sorted(MODELS), help="with --folder")
    parser.add_argument("--case", help="with --folder")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import peft
import torch

import reference
from adapter_oracle import KOHYA_NAMES, Case, load_base

DOTS_NAMES = ("lora.down.weight", "lora.up.weight")


def qkv(block):
    """Targets of a fused projection of Z-Image."""
    return [f"{block}.attention.to_{p}.weight" for p in "qkv"]


def flux_qkv(block, stream):
    names = ("to_q", "to_k", "to_v") if stream == "img" else ("add_q_proj", "add_k_proj", "add_v_proj")
    return [f"transformer_blocks.{block}.attn.{name}.weight" for name in names]


# Z-Image, modules in diffusers' names
SOME = ["layers.0.attention.to_q", "layers.1.attention.to_out.0", "layers.0.feed_forward.w1",
        "layers.1.feed_forward.w2", "noise_refiner.1.adaLN_modulation.0", "context_refiner.0.attention.to_v",
        "all_x_embedder.2-1", "all_final_layer.2-1.linear", "cap_embedder.1"]
FEW = SOME[:2] + SOME[4:6]


def ai_toolkit(c):
    for i, module in enumerate(SOME):
        c.lora(f"diffusion_model.{module}", [f"{module}.weight"], rank=2 + i % 3, dtype="bf16")


def diffusers_metadata(c):
    alphas = {"layers.0.attention.to_q": 2, "adaLN_modulation.0": 12}
    for module in FEW:
        alpha = next((a for end, a in alphas.items() if module.endswith(end)), 8)
        c.lora(f"transformer.{module}", [f"{module}.weight"], rank=4, config_alpha=alpha)
    pattern = {"^layers.0.attention.to_q": 2, "adaLN_modulation.0": 12}
    c.peft_config("transformer.", r=4, lora_alpha=8, alpha_pattern=pattern, rank_pattern={}, use_rslora=False)


def peft_default(c):
    names = ("lora_A.default.weight", "lora_B.default.weight")
    for module in FEW:
        c.lora(module, [f"{module}.weight"], names=names)


def peft_rslora(c):
    for module in FEW:
        c.lora(f"base_model.model.{module}", [f"{module}.weight"], rank=3, config_alpha=6, rslora=True)
    c.peft_config(r=3, lora_alpha=6, use_rslora=True)


def old_diffusers(c):
    names = ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
    for module in FEW:
        c.lora(f"unet.{module}", [f"{module}.weight"], names=names, dtype="f16")


def kohya(c):
    for i, module in enumerate(SOME):
        c.lora("lora_unet_" + module.replace(".", "_"), [f"{module}.weight"], names=KOHYA_NAMES, alpha=1 + i / 2,
               dtype="f16")


def kohya_conv(c):
    for module in FEW:
        c.lora("lora_unet__" + module.replace(".", "_"), [f"{module}.weight"], names=KOHYA_NAMES, alpha=2, conv=True)


def native(c):
    c.lora("diffusion_model.layers.0.attention.qkv", qkv("layers.0"))
    c.lora("diffusion_model.context_refiner.1.attention.qkv", qkv("context_refiner.1"), alpha=2)
    c.lora("diffusion_model.layers.0.attention.out", ["layers.0.attention.to_out.0.weight"], alpha=8)
    c.lora("model.diffusion_model.x_embedder", ["all_x_embedder.2-1.weight"])
    c.lora("diffusion_model.final_layer.linear", ["all_final_layer.2-1.linear.weight"])
    c.lora("diffusion_model.layers.1.feed_forward.w3", ["layers.1.feed_forward.w3.weight"])


def kohya_native(c):
    c.lora("lora_unet_layers_1_attention_qkv", qkv("layers.1"), names=KOHYA_NAMES, alpha=2, rank=6)
    c.lora("lora_unet_layers_1_attention_out", ["layers.1.attention.to_out.0.weight"], names=KOHYA_NAMES, alpha=2)
    c.lora("lora_unet_final_layer_adaLN_modulation_1", ["all_final_layer.2-1.adaLN_modulation.1.weight"],
           names=KOHYA_NAMES, alpha=1, rank=1)


def dots(c):
    """Dots for underscores, and the fused projection and `out` once more."""
    for block in ("context.refiner.0", "layers.1"):
        attention, target = f"{block}.attention", block.replace("context.refiner", "context_refiner") + ".attention"
        own = {}
        for p in "qkv":
            own[p] = c.lora(f"{attention}.to.{p}", [f"{target}.to_{p}.weight"], rank=2, names=DOTS_NAMES, alpha=1,
                            alpha_module=f"{attention}.to_{p}")
        out = c.lora(f"{attention}.to_out.0", [f"{target}.to_out.0.weight"], rank=2, names=DOTS_NAMES, alpha=1)
        c.put(f"{attention}.out.lora.down.weight", out[0].clone())
        c.put(f"{attention}.out.lora.up.weight", out[1].clone())
        c.put(f"{attention}.qkv.lora.down.weight", torch.cat([own[p][0] for p in "qkv"]))
        c.put(f"{attention}.qkv.lora.up.weight", torch.block_diag(*[own[p][1] for p in "qkv"]))
        plain = attention.replace(".", "_")
        c.duplicates += [f"{plain}_out", f"{plain}_qkv"]


def lokr_whole(c):
    """Both factors in whole: the alpha does not count."""
    c.lokr("diffusion_model.layers.0.attention.to_q", ["layers.0.attention.to_q.weight"], (4, 5), (10, 8), alpha=64)
    c.lokr("diffusion_model.layers.1.feed_forward.w1", ["layers.1.feed_forward.w1.weight"], (2, 4), (53, 10))
    c.lokr("diffusion_model.noise_refiner.0.adaLN_modulation.0", ["noise_refiner.0.adaLN_modulation.0.weight"],
           (10, 2), (16, 20), alpha=1)


def lokr_factors(c):
    """A factor of low rank: long ones become a low rank, and the alpha counts."""
    c.lokr("diffusion_model.layers.0.attention.to_k", ["layers.0.attention.to_k.weight"], (2, 2), (20, 20),
           right_rank=2, alpha=1)
    c.lokr("diffusion_model.layers.0.feed_forward.w1", ["layers.0.feed_forward.w1.weight"], (1, 2), (106, 20),
           right_rank=2, alpha=3)
    c.lokr("diffusion_model.layers.0.feed_forward.w2", ["layers.0.feed_forward.w2.weight"], (2, 1), (20, 106),
           right_rank=3, alpha=3)
    c.lokr("diffusion_model.layers.1.attention.to_v", ["layers.1.attention.to_v.weight"], (8, 8), (5, 5), left_rank=2,
           alpha=1)
    c.lokr("diffusion_model.layers.1.attention.to_k", ["layers.1.attention.to_k.weight"], (20, 20), (2, 2),
           left_rank=1, right_rank=1, alpha=4)
    c.lokr("diffusion_model.layers.1.attention.to_q", ["layers.1.attention.to_q.weight"], (40, 40), (1, 1),
           left_rank=1, alpha=2)


def lycoris(c):
    c.lokr("lycoris_layers_0_attention_to_q", ["layers.0.attention.to_q.weight"], (4, 5), (10, 8), alpha=1)
    c.lokr("lycoris_context_refiner_0_feed_forward_w2", ["context_refiner.0.feed_forward.w2.weight"], (4, 2), (10, 53),
           right_rank=3, alpha=1, dora=True)
    c.difference("lycoris_layers_1_attention_norm1", ["layers.1.attention_norm1.weight"], suffix="w_norm")


def lokr_fused(c):
    """Kronecker products whose blocks end where projections end, and whose blocks do not."""
    c.lokr("diffusion_model.layers.0.attention.qkv", qkv("layers.0"), (6, 5), (20, 8), alpha=1)
    c.lokr("diffusion_model.layers.1.attention.qkv", qkv("layers.1"), (8, 5), (15, 8), alpha=1)
    c.lokr("diffusion_model.context_refiner.0.attention.qkv", qkv("context_refiner.0"), (2, 2), (60, 20), right_rank=1,
           alpha=2)


def loha(c):
    """LoHa: a low rank where its square is small, else dense."""
    c.loha("lycoris_layers_0_attention_to_q", ["layers.0.attention.to_q.weight"], 3, alpha=1)
    c.loha("lycoris_layers_0_feed_forward_w3", ["layers.0.feed_forward.w3.weight"], 8, alpha=2)
    c.loha("lycoris_layers_1_attention_qkv", qkv("layers.1"), 4)


def dora(c):
    c.lora("lora_unet_layers_0_attention_to_q", ["layers.0.attention.to_q.weight"], names=KOHYA_NAMES, alpha=2,
           dora="rows")
    c.lora("lora_unet_layers_0_attention_to_k", ["layers.0.attention.to_k.weight"], names=KOHYA_NAMES, alpha=2,
           dora="columns")
    c.lora("lora_unet_layers_0_feed_forward_w2", ["layers.0.feed_forward.w2.weight"], names=KOHYA_NAMES, alpha=2,
           dora="columns")
    c.lora("lora_unet_layers_1_attention_qkv", qkv("layers.1"), names=KOHYA_NAMES, alpha=2, dora="rows")


def peft_dora(c):
    for module in FEW:
        c.lora(f"transformer.{module}", [f"{module}.weight"], dora="vector", config_alpha=2)
    c.peft_config("transformer.", r=4, lora_alpha=2, use_dora=True)


def differences(c):
    c.difference("diffusion_model.layers.0.attention.to_q", ["layers.0.attention.to_q.weight"])
    c.difference("diffusion_model.layers.1.attention.qkv", qkv("layers.1"))
    c.difference("diffusion_model.layers.1.adaLN_modulation.0", ["layers.1.adaLN_modulation.0.weight"],
                 bias="layers.1.adaLN_modulation.0.bias")
    c.difference("diffusion_model.layers.1.ffn_norm1", ["layers.1.ffn_norm1.weight"])
    c.difference("diffusion_model.layers.1.attention.q_norm", ["layers.1.attention.norm_q.weight"])
    c.difference("diffusion_model.final_layer.linear", [], bias="all_final_layer.2-1.linear.bias")
    c.difference("diffusion_model.cap_pad_token", ["cap_pad_token"])


def eight_bits(c):
    c.lora("diffusion_model.layers.0.attention.to_q", ["layers.0.attention.to_q.weight"], dtype="f8_e4m3")
    c.lora("diffusion_model.layers.0.attention.to_k", ["layers.0.attention.to_k.weight"], dtype="f8_e5m2", alpha=2)


def text_encoder(c):
    """Keys for the text encoder and keys of nothing, beside those of the transformer."""
    c.lora("lora_unet_layers_0_attention_to_q", ["layers.0.attention.to_q.weight"], names=KOHYA_NAMES, alpha=2)
    for name, shape in (("lora_down.weight", (2, 24)), ("lora_up.weight", (24, 2)), ("alpha", ())):
        c.put(f"lora_te_layers_0_self_attn_q_proj.{name}", c.random(*shape))
        c.text_encoder.append(f"lora_te_layers_0_self_attn_q_proj.{name}")
    c.put("lora_unet_siglip_embedder_1.lora_down.weight", c.random(2, 8))
    c.put("iteration", c.random(1))
    c.unmatched += ["lora_unet_siglip_embedder_1.lora_down.weight", "iteration"]


# FLUX.2

def adaln(c):
    """Rows of `norm_out.linear` as Black Forest Labs have them: the second half first."""
    half = c.base["norm_out.linear.weight"].shape[0] // 2
    return [("norm_out.linear.weight", half, half), ("norm_out.linear.weight", 0, half)]


BLOCK, SINGLE = "transformer_blocks.1", "single_transformer_blocks.2.attn"


def bfl(c):
    d = "diffusion_model."
    c.lora(d + "double_blocks.0.img_attn.qkv", flux_qkv(0, "img"), dtype="bf16")
    c.lora(d + "double_blocks.1.txt_attn.qkv", flux_qkv(1, "txt"), rank=6)
    c.lora(d + "double_blocks.1.img_attn.proj", [f"{BLOCK}.attn.to_out.0.weight"])
    c.lora(d + "double_blocks.1.txt_attn.proj", [f"{BLOCK}.attn.to_add_out.weight"])
    c.lora(d + "double_blocks.1.img_mlp.0", [f"{BLOCK}.ff.linear_in.weight"])
    c.lora(d + "double_blocks.1.txt_mlp.2", [f"{BLOCK}.ff_context.linear_out.weight"])
    c.lora(d + "single_blocks.2.linear1", [f"{SINGLE}.to_qkv_mlp_proj.weight"], rank=2)
    c.lora(d + "single_blocks.2.linear2", [f"{SINGLE}.to_out.weight"], rank=2)
    c.lora(d + "final_layer.adaLN_modulation.1", adaln(c))
    c.lora(d + "final_layer.linear", ["proj_out.weight"])
    c.lora(d + "time_in.in_layer", ["time_guidance_embed.timestep_embedder.linear_1.weight"], rank=1)
    c.lora(d + "single_stream_modulation.lin", ["single_stream_modulation.linear.weight"], rank=1)


def flux_diffusers(c):
    for module in (f"{BLOCK}.attn.to_q", f"{BLOCK}.attn.add_v_proj", f"{BLOCK}.ff_context.linear_in",
                   f"{SINGLE}.to_qkv_mlp_proj", f"{SINGLE}.to_out", "norm_out.linear"):
        c.lora(f"transformer.{module}", [f"{module}.weight"], rank=3)


def misspelt(c):
    c.lora("diffusion_model.sformer_blocks.0.attn.to_k", ["transformer_blocks.0.attn.to_k.weight"])
    c.lora(f"diffusion_model.{SINGLE}.to_out", [f"{SINGLE}.to_out.weight"])


def flux_kohya(c):
    how = {"names": KOHYA_NAMES, "alpha": 2, "dtype": "f16"}
    c.lora("lora_unet_double_blocks_0_img_attn_qkv", flux_qkv(0, "img"), **how)
    c.lora("lora_unet_double_blocks_1_img_mlp_2", [f"{BLOCK}.ff.linear_out.weight"], **how)
    c.lora("lora_unet_single_blocks_0_linear1", ["single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight"], **how)
    c.lora("lora_unet_final_layer_adaLN_modulation_1", adaln(c), dora="rows", **how)
    c.lora("lora_unet_img_in", ["x_embedder.weight"], **how)


def flux_peft(c):
    c.lora("base_model.model.double_blocks.0.txt_attn.qkv", flux_qkv(0, "txt"))
    c.lora("base_model.model.single_blocks.1.linear2", ["single_transformer_blocks.1.attn.to_out.weight"], rank=1)


def flux_lokr(c):
    c.lokr("diffusion_model.double_blocks.0.img_attn.qkv", flux_qkv(0, "img"), (9, 6), (16, 8), alpha=3)
    c.lokr("diffusion_model.double_blocks.1.txt_attn.qkv", flux_qkv(1, "txt"), (4, 6), (36, 8), alpha=3)
    c.lokr("diffusion_model.single_blocks.0.linear1", ["single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight"],
           (17, 6), (18, 8), right_rank=2, alpha=1)
    c.lokr("diffusion_model.final_layer.adaLN_modulation.1", adaln(c), (6, 6), (16, 8))


def flux_lycoris(c):
    c.lokr("lycoris_transformer_blocks_0_attn_add_q_proj", ["transformer_blocks.0.attn.add_q_proj.weight"], (6, 6),
           (8, 8))
    c.lokr("lycoris_single_transformer_blocks_1_attn_to_out", ["single_transformer_blocks.1.attn.to_out.weight"],
           (6, 3),
           (8, 43), right_rank=2, alpha=1)
    c.lokr("transformer.transformer_blocks.1.attn.to_qkv", flux_qkv(1, "img"), (12, 6), (12, 8))
    c.loha("lycoris_norm_out_linear", ["norm_out.linear.weight"], 3, alpha=1)


def flux_differences(c):
    c.difference("diffusion_model.final_layer.adaLN_modulation.1", adaln(c))
    c.difference("diffusion_model.double_blocks.0.img_attn.norm.query_norm",
                 ["transformer_blocks.0.attn.norm_q.weight"])


CASES = {
    "zimage": [ai_toolkit, diffusers_metadata, peft_default, peft_rslora, old_diffusers, kohya, kohya_conv, native,
               kohya_native, dots, lokr_whole, lokr_factors, lycoris, lokr_fused, loha, dora, peft_dora, differences,
               eight_bits, text_encoder],
    "flux2": [bfl, flux_diffusers, misspelt, flux_kohya, flux_peft, flux_lokr, flux_lycoris, flux_differences],
}


def make(model, build, base):
    case = Case(build.__name__, base, zlib.crc32(f"{model}/{build.__name__}".encode()))
    build(case)
    return case


def write_folder(options):
    """The merged model of one case, everything else as it was."""
    base = load_base(MODELS[options.model] / "transformer")
    build = next(build for build in CASES[options.model] if build.__name__ == options.case)
    case = make(options.model, build, base)
    shutil.copytree(MODELS[options.model], options.folder, ignore=shutil.ignore_patterns("expected"))
    for old in [*(options.folder / "transformer").glob("*.safetensors"),
                  *(options.folder / "transformer").glob("*.index.json")]:
        old.unlink()
    reference.save({**base, **case.merged}, options.folder / "transformer/diffusion_pytorch_model.safetensors",
                   {"format": "pt"})
    reference.save(case.tensors, options.folder / "adapter.safetensors", case.metadata or None)


def main(options):
    if options.folder:
        write_folder(options)
        return
    about = {"torch": torch.__version__, "peft": peft.__version__, "cases": []}
    for model, builds in CASES.items():
        base = load_base(MODELS[model] / "transformer")
        folder = options.out / model
        folder.mkdir(parents=True, exist_ok=True)
        expected = {}
        for build in builds:
            case = make(model, build, base)
            reference.save(case.tensors, folder / f"{case.name}.safetensors", case.metadata or None)
            expected.update(case.expected())
            about["cases"].append({"model": model, "name": case.name, **case.about()})
        reference.save(expected, folder / "expected.safetensors")
    reference.write_json(about, options.out / "adapters.json")


if __name__ == "__main__":
    main(OPTIONS)
