// One source, several instruction sets, chosen when the library is loaded.
//
// FASTXAI_CLONES stands before a leaf function that holds a hot loop. Templates and lambdas cannot
// be cloned: a leaf is a plain function that calls an always-inline template.
#pragma once

#define FASTXAI_INLINE inline __attribute__((always_inline))

// GCC 12 is the first to know the x86-64 levels in target_clones; musl has no ifunc.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTXAI_HAS_CLONES 1
#define FASTXAI_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FASTXAI_HAS_CLONES 0
#define FASTXAI_CLONES
#endif

namespace fastxai {

inline const char* cpu_clones() {
#if FASTXAI_HAS_CLONES
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) {
    return "default, x86-64-v3, x86-64-v4; this CPU: x86-64-v4";
  }
  if (__builtin_cpu_supports("x86-64-v3")) {
    return "default, x86-64-v3, x86-64-v4; this CPU: x86-64-v3";
  }
  return "default, x86-64-v3, x86-64-v4; this CPU: default";
#else
  return "default";
#endif
}

}  // namespace fastxai
