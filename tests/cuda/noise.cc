// Writes the noise of torch-cuda to a file as raw float32, for noise_against_torch.py:
//   cuda_noise SEED COUNT FILE
#include <fmt/format.h>

#include <fstream>
#include <string>
#include <vector>

#include "pipeline/noise.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "usage: cuda_noise SEED COUNT FILE\n");
    return 2;
  }
  std::vector<float> values(std::stoul(argv[2]));
  nostos::fill_normal(nostos::RngKind::torch_cuda, std::stoull(argv[1]), values);
  std::ofstream file(argv[3], std::ios::binary);
  file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  return file.flush().good() ? 0 : 1;
}
