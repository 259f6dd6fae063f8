// Writes the noise of torch-cuda, made on the GPU, to a file as raw float32, for noise_against_torch.py:
//   cuda_noise SEED COUNT FILE
#include "ops/noise.h"

#include <fmt/format.h>

#include <fstream>
#include <string>

#include "base/error.h"
#include "tensor/transfer.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "usage: cuda_noise SEED COUNT FILE\n");
    return 2;
  }
  try {
    nostos::Context ctx({nostos::DeviceKind::cuda, 0});
    const nostos::Shape shape{std::stoll(argv[2])};
    nostos::Tensor made(ctx.device(), nostos::DType::f32, shape), values({}, nostos::DType::f32, shape);
    nostos::ops::philox_normal(ctx, std::stoull(argv[1]), made);
    nostos::download(ctx, made, values);
    ctx.synchronize("noise");
    std::ofstream file(argv[3], std::ios::binary);
    file.write(reinterpret_cast<const char*>(values.data<float>()),
               static_cast<std::streamsize>(values.size_in_bytes()));
    return file.flush().good() ? 0 : 1;
  } catch (const nostos::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return nostos::exit_code(error.kind());
  }
}
