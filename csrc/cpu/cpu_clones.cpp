#include <torch/csrc/stable/library.h>

#include <string>

#include "../common/isa.h"

namespace {

std::string cpu_clones() { return fastxai::cpu_clones(); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastxai, CompositeExplicitAutograd, m) {
  m.impl("cpu_clones", TORCH_BOX(&cpu_clones));
}
