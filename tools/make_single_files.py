"""Writes the weights of a diffusers folder as users have them: single files, named and stored in every way.

    python tools/make_single_files.py --model models/mini --out /tmp/files transformer:native:q8_0 vae:native:bf16
    python tools/make_single_files.py --model tests/data/klein_tiny/base --out /tmp/files --dequantised
    python tools/make_single_files.py --model tests/data/tiny/varied --check

A file is PART:NAMES:STORE, and is written as <out>/PART-NAMES-STORE.safetensors or .gguf; without files, every kind that
the model can have is written.
  PART   transformer, text_encoder, vae, or all: one file of the three with ComfyUI's prefixes.
  NAMES  folder: the folder's own. native: the model's own (ComfyUI's, Black Forest Labs'), of a VAE latent diffusion's,
         of a text encoder transformers'. prefixed: native with ComfyUI's prefix. Of Z-Image also counted: as
         stable-diffusion.cpp converts a folder. Of FLUX.2 also comfy: as ComfyUI writes it. Of a VAE also old: diffusers'
         before 0.18, and of FLUX.2's also nested: Black Forest Labs'. Of a text encoder also llama_cpp.
  STORE  of safetensors: f32 f16 bf16 f8 f8_e5m2 f8_all f8_scaled f8_comfy f8_header f8_bfl i8 i8_convrot.
         of GGUF: gguf_f32 gguf_f16 gguf_bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs.

--dequantised writes beside each file a diffusers folder, float32, of what the file's numbers stand for: programs must
draw the same pictures from both. Parts that the file has not are the model's.
--check compares the names with those of diffusers' and llama.cpp's own converters, value by value, and writes nothing.
--list-names writes {PART: {NAMES: {name in the file: names of the folder, from top to bottom}}} and nothing else, but
for names that are the folder's behind a prefix; NAME#0 and NAME#1 are the halves of a tensor. Made so: tests/data/file_names/zimage.json of tests/data/tiny/varied,
flux2.json of tests/data/klein_tiny/base.
"""

import argparse
import json
import shutil
from pathlib import Path

PARTS = ("transformer", "text_encoder", "vae")


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="PART:NAMES:STORE", help="default: every kind")
    parser.add_argument("--model", type=Path, required=True, help="diffusers folder")
    parser.add_argument("--out", type=Path, help="folder of the files")
    parser.add_argument("--dequantised", action="store_true", help="also write what each file stands for")
    parser.add_argument("--check", action="store_true", help="compare names with other programs' converters")
    parser.add_argument("--list-names", type=Path, metavar="FILE", help="write the names alone")
    options = parser.parse_args()
    if not options.check and not options.list_names and not options.out:
        parser.error("--out is missing")
    return options


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import gguf
import torch
from safetensors.torch import load_file, save_file

import single_file_names as naming
import stored_weights

PREFIXES = {"transformer": "model.diffusion_model.", "vae": "vae."}
ENCODER_PREFIX = {2560: "text_encoders.qwen3_4b.transformer.", 4096: "text_encoders.qwen3_8b.transformer."}


class Model:
    """A diffusers folder."""

    def __init__(self, folder):
        self.folder = folder
        index = json.loads((folder / "model_index.json").read_text())
        self.is_flux2 = index["transformer"][1] == "Flux2Transformer2DModel"
        self.tensors = {part: self._load(part) for part in PARTS}

    def _load(self, part):
        tensors = {}
        for file in sorted((self.folder / part).glob("*.safetensors")):
            tensors.update(load_file(file))
        return tensors

    def config(self, part):
        return json.loads((self.folder / part / "config.json").read_text())

    def namings(self, part):
        """{NAMES: function of the folder's names} of a part."""
        namings = {"folder": naming.as_named}
        if part == "text_encoder":
            return {**namings, "native": self._with_model_prefix, "llama_cpp": naming.qwen3_llama_cpp}
        if part == "vae":
            return {**namings, "native": naming.vae_native, "old": naming.vae_old,
                    **({"nested": naming.vae_nested} if self.is_flux2 else {})}
        if self.is_flux2:
            return {**namings, "native": naming.flux2_native, "comfy": naming.flux2_comfy}
        return {**namings, "native": naming.zimage_native, "counted": naming.zimage_counted}

    @staticmethod
    def _with_model_prefix(names):
        return [naming.FileTensor("model." + name if not name.startswith(("model.", "lm_head.")) else name, (name,))
                for name in names]

    def prefix(self, part):
        """What stands before a part's names in an all-in-one file."""
        hidden = self.config("text_encoder")["hidden_size"]
        return PREFIXES.get(part) or ENCODER_PREFIX.get(hidden, ENCODER_PREFIX[2560])

    def name_map(self, part, names):
        """[(prefix, FileTensor)] of a part, by NAMES."""
        prefix = self.prefix(part) if names == "prefixed" else ""
        function = self.namings(part)["native" if names == "prefixed" else names]
        return prefix, function(list(self.tensors[part]))


def file_kinds(model):
    """Every file that the model can have."""
    transformer = [f"transformer:{names}:{store}" for names in ("folder", "native", "prefixed")
                   for store in ("f32", "f16", "bf16")]
    stores = list(stored_weights.SAFETENSORS)[3:] + [gguf_name(name) for name in stored_weights.GGUF]
    transformer += [f"transformer:native:{store}" for store in stores]
    transformer += ["transformer:prefixed:f8_scaled", "transformer:prefixed:f8_comfy", "transformer:prefixed:q8_0",
                    "transformer:folder:f8_scaled", "transformer:folder:q8_0"]
    transformer += ["transformer:comfy:bf16"] if model.is_flux2 else [
        f"transformer:counted:{store}" for store in ("q8_0", "q4_k", "gguf_f16")]
    encoder = [f"text_encoder:{names}:{store}" for names, store in
               (("native", "bf16"), ("native", "f8_comfy"), ("native", "f8_scaled"), ("prefixed", "bf16"))]
    encoder += [f"text_encoder:llama_cpp:{gguf_name(name)}" for name in stored_weights.GGUF]
    vae = [f"vae:{names}:{store}" for names in model.namings("vae") for store in ("f32", "bf16")]
    return transformer + encoder + vae + ["all:prefixed:f32", "all:prefixed:bf16", "all:prefixed:f8_comfy"]


def gguf_name(name):
    """How STORE names a GGUF type."""
    return f"gguf_{name}" if name in ("f32", "f16", "bf16") else name


def store_part(model, part, names, store):
    """A part as a file has it: ({name: Stored}, naming, prefix)."""
    prefix, entries = model.name_map(part, names)
    packed = naming.pack(entries, model.tensors[part])
    if store in stored_weights.SAFETENSORS:
        form = stored_weights.SAFETENSORS["bf16" if part == "vae" and store not in ("f32", "f16") else store]
    else:
        form = stored_weights.gguf_format(gguf, store.removeprefix("gguf_").upper(), names == "counted")
    stored = {name: form(name, tensor) if tensor.is_floating_point() else stored_weights.Stored(tensor, tensor)
              for name, tensor in packed.items()}
    return stored, entries, prefix


def safetensors_of(parts, store):
    """(tensors, metadata) of a safetensors file."""
    tensors, layers = {}, {}
    for stored, _, prefix in parts:
        for name, entry in stored.items():
            tensors[prefix + name] = entry.weight.contiguous()
            tensors.update({prefix + extra: value for extra, value in entry.extras.items()})
            if entry.extras:
                layers[prefix + name.removesuffix(".weight")] = {"format": "float8_e4m3fn"}
        if store == "f8_scaled" and any(entry.extras for entry in stored.values()):
            tensors[prefix + "scaled_fp8"] = torch.zeros(0, dtype=stored_weights.F8)
    metadata = {"format": "pt"}
    if store == "f8_header":
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": layers})
    return tensors, metadata


def write_gguf(path, part, model, stored, prefix, bare):
    """A GGUF file. bare: without key-values, as stable-diffusion.cpp writes it."""
    writer = gguf.GGUFWriter(path, "qwen3" if part == "text_encoder" else "flux" if model.is_flux2 else "lumina2")
    if bare:
        writer.kv_data[0].clear()
    elif part == "text_encoder":
        add_encoder_values(writer, model)
    else:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, entry in stored.items():
        data, kind = entry.weight
        writer.add_tensor(prefix + name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_encoder_values(writer, model):
    """The key-values of a text encoder's file: its config and its tokenizer, as llama.cpp's converter has them."""
    config = model.config("text_encoder")
    theta = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta", 1e4))
    writer.add_name(model.folder.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_tokenizer(writer, model.folder / "tokenizer", config["vocab_size"])


def add_tokenizer(writer, folder, size):
    """The tokenizer's key-values. size: of the vocabulary; ids that no token has are filled."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if (folder / "tokenizer.json").exists():
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
        added = {token["id"]: token for token in tokenizer["added_tokens"]}
    else:
        vocabulary = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()
        merges = [line for line in lines if line and not line.startswith("#version")]
        added = {int(number): token for number, token in config["added_tokens_decoder"].items()}
    tokens, types = [f"[PAD{i}]" for i in range(size)], [gguf.TokenType.UNUSED] * size
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, gguf.TokenType.NORMAL
    for number, token in added.items():
        tokens[number] = token["content"]
        types[number] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index(config["eos_token"]))
    writer.add_pad_token_id(tokens.index(config["pad_token"]))
    writer.add_add_bos_token(False)
    if "chat_template" in config:
        writer.add_chat_template(config["chat_template"])


def write_dequantised(model, folder, parts):
    """A float32 diffusers folder. parts: {part: (stored, naming, prefix)} that are not the model's own."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model.folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json", "expected"))
    for part in PARTS:
        tensors = {name: tensor.float() if tensor.is_floating_point() else tensor
                   for name, tensor in model.tensors[part].items()}
        if part in parts:
            stored, entries, _ = parts[part]
            tensors = naming.unpack(entries, {name: entry.meaning for name, entry in stored.items()})
        file = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / part / file,
                  {"format": "pt"})


def write_file(model, kind, options):
    """One file PART:NAMES:STORE, and what it stands for."""
    part, names, store = kind.split(":")
    parts = {each: store_part(model, each, names, store) for each in (PARTS if part == "all" else (part,))}
    stem = options.out / kind.replace(":", "-")
    if store in stored_weights.SAFETENSORS:
        tensors, metadata = safetensors_of(parts.values(), store)
        path = stem.with_name(stem.name + ".safetensors")
        save_file(tensors, path, metadata)
    else:
        path = stem.with_name(stem.name + ".gguf")
        stored, _, prefix = parts[part]
        write_gguf(path, part, model, stored, prefix, bare=names == "counted")
    if options.dequantised:
        write_dequantised(model, stem.with_name(stem.name + "-dequantised"), parts)
    print(f"{path}: {sum(len(stored) for stored, _, _ in parts.values())} weights, {path.stat().st_size} bytes")


def expect_equal(what, found, wanted):
    """Stops unless two sets of tensors are the same."""
    if sorted(found) != sorted(wanted):
        raise SystemExit(f"{what}: other names: {sorted(set(found) ^ set(wanted))[:8]}")
    for name, tensor in wanted.items():
        if not torch.equal(found[name], tensor):
            raise SystemExit(f"{what}: {name} differs")
    print(f"{what}: {len(wanted)} tensors are the same")


def check(model):
    """Compares the namings with the converters of diffusers and of llama.cpp, and their inverses with themselves."""
    from diffusers.loaders import single_file_utils as converters

    def packed(part, names):
        prefix, entries = model.name_map(part, names)
        return {prefix + name: tensor for name, tensor in naming.pack(entries, model.tensors[part]).items()}

    for part in PARTS:
        for names, function in model.namings(part).items():
            entries = function(list(model.tensors[part]))
            back = naming.unpack(entries, naming.pack(entries, model.tensors[part]))
            expect_equal(f"{part}, {names}, there and back", back, model.tensors[part])
    convert = (converters.convert_flux2_transformer_checkpoint_to_diffusers if model.is_flux2 else
               converters.convert_z_image_transformer_checkpoint_to_diffusers)
    expect_equal("transformer, diffusers' converter", convert(packed("transformer", "native")),
                 model.tensors["transformer"])
    vae = converters.convert_ldm_vae_checkpoint(packed("vae", "native"), model.config("vae"))
    wanted = {name: tensor for name, tensor in model.tensors["vae"].items() if not name.startswith("bn.")}
    expect_equal("vae, diffusers' converter", vae, wanted)
    layers = model.config("text_encoder")["num_hidden_layers"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    for entry in naming.qwen3_llama_cpp(list(model.tensors["text_encoder"])):
        folder_name = entry.parts[0] if entry.parts[0].startswith(("model.", "lm_head.")) else "model." + entry.parts[0]
        if names.get_name(folder_name, (".weight",)) != entry.name:
            raise SystemExit(f"text_encoder: {folder_name} is {names.get_name(folder_name, ('.weight',))} in llama.cpp")
    print(f"text_encoder, llama.cpp's table: {len(model.tensors['text_encoder'])} tensors are the same")


def list_names(model):
    """What --list-names writes."""
    def parts_of(entry):
        return [f"{entry.parts[0]}#1", f"{entry.parts[0]}#0"] if entry.swapped else list(entry.parts)

    listed = {part: {names: {entry.name: parts_of(entry) for entry in function(sorted(model.tensors[part]))}
                     for names, function in model.namings(part).items() if names != "folder"} for part in PARTS}
    del listed["text_encoder"]["native"]  # only a prefix
    return listed


def main(options):
    model = Model(options.model)
    if options.list_names:
        options.list_names.parent.mkdir(parents=True, exist_ok=True)
        options.list_names.write_text(json.dumps(list_names(model), indent=0) + "\n")
        return
    if options.check:
        check(model)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for kind in options.files or file_kinds(model):
        write_file(model, kind, options)


if __name__ == "__main__":
    main(OPTIONS)
