"""What diffusers makes of a picture and a mask: its pipelines run on a CPU, with every stage recorded and checked.

Not a program. Needs the packages of requirements.txt.
"""

import contextlib

import diffusers
import diffusers.models.autoencoders.vae
import diffusers.pipelines.flux2.pipeline_flux2_klein_inpaint
import diffusers.pipelines.z_image.pipeline_z_image_img2img
import diffusers.pipelines.z_image.pipeline_z_image_inpaint
import torch

import image_input_cases
import klein_reference
import reference
from klein_reference import results_of

DRAWING_MODULES = (
    diffusers.models.autoencoders.vae,
    diffusers.pipelines.z_image.pipeline_z_image_img2img,
    diffusers.pipelines.z_image.pipeline_z_image_inpaint,
    diffusers.pipelines.flux2.pipeline_flux2_klein_inpaint,
)


def load_pipeline(folder, is_klein, has_mask, dtype):
    """The pipeline that takes a picture, or a picture and a mask, on the CPU, every part in `dtype`."""
    if is_klein:
        kind = diffusers.Flux2KleinInpaintPipeline
    else:
        kind = diffusers.ZImageInpaintPipeline if has_mask else diffusers.ZImageImg2ImgPipeline
    return reference.load_pipeline(kind, folder, dtype)


def is_klein(pipe):
    return isinstance(pipe, diffusers.Flux2KleinInpaintPipeline)


@contextlib.contextmanager
def recorded_draws():
    """Lists the tensors that diffusers draws from generators while the block runs."""
    draws, originals = [], [module.randn_tensor for module in DRAWING_MODULES]

    def recorder(original):
        def call(*args, **kwargs):
            draws.append(original(*args, **kwargs))
            return draws[-1]
        return call

    for module, original in zip(DRAWING_MODULES, originals):
        module.randn_tensor = recorder(original)
    try:
        yield draws
    finally:
        for module, original in zip(DRAWING_MODULES, originals):
            module.randn_tensor = original


@torch.no_grad()
def sample(pipe, case, given):
    """Runs the pipeline on a case; returns the records of its stages by name, lists in order."""
    states = []

    def on_step(pipe, step, time, tensors):
        states.append(tensors["latents"])
        return {}

    options = {"image": given["picture"]}
    if "mask" in given:
        options["mask_image"] = given["mask"]
    if "reference" in given:
        options["image_reference"] = given["reference"]
    with contextlib.ExitStack() as stack:
        watch = lambda owner, method: stack.enter_context(results_of(owner, method))
        run = {
            "draws": stack.enter_context(recorded_draws()),
            "pictures": watch(pipe.image_processor, "preprocess"),
            "masks": watch(pipe.mask_processor, "preprocess") if "mask" in given else [],
            "latent_masks": watch(pipe, "prepare_mask_latents") if "mask" in given else [],
            "starts": watch(pipe, "prepare_latents"),
            "encoded": watch(pipe.vae, "encode"),
            "begins": watch(pipe, "get_timesteps"),
        }
        pipe(
            prompt=image_input_cases.PROMPT, strength=case["strength"], num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"], generator=torch.Generator("cpu").manual_seed(case["seed"]),
            output_type="latent", callback_on_step_end=on_step, **options,
        )
    return {**run, "states": states, "sigmas": pipe.scheduler.sigmas}


def check_draws(case, draws, count, dtype):
    """That the draws are `count` of one generator in a row, in the parts' type."""
    assert len(draws) == count, "number of draws"
    generator = torch.Generator("cpu").manual_seed(case["seed"])
    for draw in draws:
        assert draw.dtype == dtype
        assert torch.equal(draw, torch.randn(draw.shape, generator=generator, dtype=dtype)), "order of draws"


def mixed(sigma, noise, z):
    """scale_noise's own arithmetic, all in z's type."""
    sigma = sigma.to(z.dtype)
    return sigma * noise + (1.0 - sigma) * z


def as_grid(pipe, rows, like):
    """Rows [1, h * w, C] of klein as [C, h, w]; what already has channels first as it is."""
    return klein_reference.unpack(rows, *like.shape[-2:])[0] if is_klein(pipe) else rows[0]


def z_image_latents(pipe, run, has_mask):
    """(z, tensors of its own) of Z-Image's first encoding."""
    posterior = run["encoded"][0].latent_dist
    mean, logvar = posterior.parameters[0].chunk(2)
    noise = run["draws"][0][0]
    z = mean + torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * noise
    z = (z - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    tensors = {"posterior": posterior.parameters[0], "posterior_noise": noise}
    if has_mask:
        assert torch.equal(z, run["starts"][0][2][0]), "the formula of z"
        tensors["unused_noise"] = run["draws"][2][0]
    return z, tensors


def klein_latents(pipe, run):
    """(z, tensors of its own) of klein's first encoding, which draws nothing."""
    parameters = run["encoded"][0].latent_dist.parameters
    z = pipe._patchify_latents(parameters.chunk(2, dim=1)[0])[0]
    mean, variance = (values[:, None, None] for values in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var))
    z = (z - mean) / torch.sqrt(variance + pipe.vae.config.batch_norm_eps)
    assert torch.equal(z, run["starts"][0][3][0]), "the formula of z"
    return z, {"posterior": parameters[0]}


def check_steps(run, first_step, z, latent_mask, states):
    """That what a mask keeps is z, noised as far as each step has come."""
    noise = run["draws"][1 if len(run["draws"]) > 1 else 0][0]
    kept = (latent_mask == 0).expand_as(z)
    for i, state in enumerate(states):
        known = mixed(run["sigmas"][first_step + i + 1], noise, z) if i + 1 < len(states) else z
        assert torch.equal(state[kept].to(known.dtype), known[kept]), f"what is kept at step {i}"


def mask_tensors(pipe, run, z):
    """The prepared mask and the latent one; they are checked against the note's formulas."""
    prepared = run["masks"][0][0, 0]
    small = run["latent_masks"][0] if is_klein(pipe) else run["latent_masks"][0][0]
    small = as_grid(pipe, small, z)[0]
    side = prepared.shape[0] // small.shape[0]
    if is_klein(pipe):
        square = prepared.unflatten(0, (-1, side)).unflatten(2, (-1, side))[:, side // 2 - 1:side // 2 + 1, :,
                                                                           side // 2 - 1:side // 2 + 1]
        assert torch.equal(square.mean(dim=(1, 3)), small), "the formula of the latent mask"
    else:
        assert torch.equal(prepared[::side, ::side].to(small.dtype), small), "the formula of the latent mask"
    return {"prepared_mask": prepared.to(torch.uint8), "latent_mask": small}


@torch.no_grad()
def decode(pipe, latents):
    """float32 [3, H, W], about [-1, 1], of the state [C, h, w] after the last step."""
    latents = latents[None].to(pipe.vae.dtype)
    if is_klein(pipe):
        mean, variance = (values.view(1, -1, 1, 1) for values in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var))
        latents = pipe._unpatchify_latents(latents * torch.sqrt(variance + pipe.vae.config.batch_norm_eps) + mean)
    else:
        latents = latents / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    return pipe.vae.decode(latents, return_dict=False)[0][0].float()


def run_case(pipe, case, given):
    """All tensors of one case, by name (see NOTE of make_image_input_golden.py), and the first step that runs."""
    run = sample(pipe, case, given)
    has_mask, klein = "mask" in given, is_klein(pipe)
    check_draws(case, run["draws"], 1 if klein else 3 if has_mask else 2, pipe.vae.dtype)
    first_step = case["steps"] - run["begins"][0][1]
    z, tensors = klein_latents(pipe, run) if klein else z_image_latents(pipe, run, has_mask)
    start = as_grid(pipe, run["starts"][0][0] if has_mask else run["starts"][0], z)
    noise = run["draws"][0 if klein else 1][0]
    assert torch.equal(start, mixed(run["sigmas"][first_step], noise, z)), "the formula of the initial state"
    states = [as_grid(pipe, state, z) for state in run["states"]]
    assert len(states) == case["steps"] - first_step, "steps that run"
    tensors |= {"noise": noise, "z": z, "initial_state": start, "states": torch.stack(states), "sigmas": run["sigmas"],
                "prepared_picture": klein_reference.as_bytes(run["pictures"][0])}
    if has_mask:
        tensors |= mask_tensors(pipe, run, z)
        check_steps(run, first_step, z, tensors["latent_mask"], states)
    if "reference" in given:
        tensors["prepared_reference"] = klein_reference.as_bytes(run["pictures"][1])
    tensors["decoded_image"] = decode(pipe, states[-1])
    return tensors, first_step


def first_steps():
    """[steps, strength, first step] of strengths whose product with the steps is and is not whole, in float64."""
    strengths = (0.01, 0.05, 0.1, 0.125, 0.2, 0.25, 0.29, 0.3, 0.35, 0.4, 0.5, 0.55, 0.57, 0.58, 0.6, 0.7, 0.75, 0.8,
                 0.9, 0.95, 0.99, 1.0)
    return [
        [steps, strength, int(max(steps - min(steps * strength, steps), 0))]
        for steps in (1, 2, 3, 4, 8, 9, 10, 20, 28, 50, 100) for strength in strengths
    ]
