// One source, several instruction sets, chosen when the library is loaded.
//
// FASTXAI_CLONES stands before a leaf function that holds a hot loop. Templates and lambdas cannot
// be cloned: a leaf is a plain function that calls an always-inline template.
#pragma once

#define FASTXAI_INLINE inline __attribute__((always_inline))

// Where the loader can choose: GCC, from 12 on by x86-64 level, with glibc (musl has no ifunc).
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define FASTXAI_HAS_CLONES 1
#if __GNUC__ >= 12
#define FASTXAI_WIDE "x86-64-v3"
#define FASTXAI_WIDER "x86-64-v4"
#define FASTXAI_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FASTXAI_WIDE "avx2"
#define FASTXAI_WIDER "avx512f"
#define FASTXAI_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#else
#define FASTXAI_HAS_CLONES 0
#define FASTXAI_CLONES
#endif

namespace fastxai {

inline const char* cpu_clones() {
#if FASTXAI_HAS_CLONES
  __builtin_cpu_init();
  if (__builtin_cpu_supports(FASTXAI_WIDER)) {
    return "default, " FASTXAI_WIDE ", " FASTXAI_WIDER "; this CPU: " FASTXAI_WIDER;
  }
  if (__builtin_cpu_supports(FASTXAI_WIDE)) {
    return "default, " FASTXAI_WIDE ", " FASTXAI_WIDER "; this CPU: " FASTXAI_WIDE;
  }
  return "default, " FASTXAI_WIDE ", " FASTXAI_WIDER "; this CPU: default";
#else
  return "default";
#endif
}

}  // namespace fastxai
