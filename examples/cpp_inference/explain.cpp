// Serves a package of fastxai.export without Python: rows in, predictions with attributions out.
//
//   explain PACKAGE.pt2 [FASTXAI_LIBRARY] < rows.txt
//
// One row a line, numbers between spaces. Each line of the answer has the row's outputs, a bar, and
// its attributions. With BENCH=n in the environment it explains the rows n times more and tells the
// median time on stderr. The library (fastxai/_C.so of a Python installation) is needed for
// packages whose manifest says so.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

at::Tensor read_rows(std::istream& in) {  // [B, F] float32
  std::vector<float> numbers;
  int64_t rows = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    const size_t before = numbers.size();
    for (float x; words >> x;) numbers.push_back(x);
    if (!words.eof()) throw std::runtime_error("not a number in line " + std::to_string(rows + 1));
    if (numbers.size() == before) continue;  // an empty line
    ++rows;
    if (numbers.size() != rows * (numbers.size() - before))
      throw std::runtime_error("another number of features in line " + std::to_string(rows));
  }
  if (rows == 0) throw std::runtime_error("no rows");
  return at::tensor(numbers).reshape({rows, -1});
}

void write(const at::Tensor& numbers) {  // [n]
  for (int64_t i = 0; i < numbers.numel(); ++i)
    std::cout << (i ? " " : "") << numbers[i].item<double>();
}

double median_microseconds(torch::inductor::AOTIModelPackageLoader& package,
                           const std::vector<at::Tensor>& inputs, int times) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> taken;
  for (int i = 0; i < times; ++i) {
    const auto start = Clock::now();
    package.run(inputs);
    taken.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::nth_element(taken.begin(), taken.begin() + times / 2, taken.end());
  return taken[times / 2];
}

void serve(int argc, char** argv) {
  if (argc < 2) throw std::runtime_error("usage: explain PACKAGE.pt2 [FASTXAI_LIBRARY] < rows");
  if (argc > 2 && dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL) == nullptr)
    throw std::runtime_error(dlerror());

  const c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader package(argv[1]);
  // Compiled code checks neither shapes nor dtypes: what goes in must be as the manifest says.
  const std::vector<at::Tensor> inputs{read_rows(std::cin)};
  const std::vector<at::Tensor> results = package.run(inputs);  // outputs, attributions, ...

  std::cout.precision(9);
  for (int64_t row = 0; row < inputs[0].size(0); ++row) {
    write(results[0][row].flatten());
    std::cout << " | ";
    write(results[1][row].flatten());
    std::cout << '\n';
  }
  if (const char* times = std::getenv("BENCH"))
    std::cerr << median_microseconds(package, inputs, std::max(1, std::atoi(times))) << " µs\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    serve(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "explain: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
