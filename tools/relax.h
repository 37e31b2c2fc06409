/* SPDX-License-Identifier: Apache-2.0 */
/* What a thread does that looks at memory again and again. */
#ifndef VD_RELAX_H
#define VD_RELAX_H

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
