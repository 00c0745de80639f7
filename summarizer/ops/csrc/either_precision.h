/* Arrays of numbers that are bf16 or fp32, read as fp32 and written rounded once: what kernels of both share. */
#ifndef EITHER_PRECISION_H
#define EITHER_PRECISION_H

#include "vectors.h"

/* 16 numbers of bf16 or fp32 from place `at`, zeros behind the end. */
INLINE __m512 load(const void *x, long at, __mmask16 there, int in_bf16) {
    if (!in_bf16) return _mm512_maskz_loadu_ps(there, (const float *)x + at);
    return widened(_mm256_maskz_loadu_epi16(there, (const uint16_t *)x + at));
}

/* To the nearest bf16 where that is asked for. */
INLINE void store(void *y, long at, __mmask16 there, __m512 value, int in_bf16) {
    if (!in_bf16) {
        _mm512_mask_storeu_ps((float *)y + at, there, value);
        return;
    }
#ifdef __AVX512BF16__
    _mm256_mask_storeu_epi16((uint16_t *)y + at, there, (__m256i)_mm512_cvtneps_pbh(value));
#else
    __m512i bits = _mm512_castps_si512(value);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q); /* whose bits would carry over */
    up = _mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_mask_storeu_epi16((uint16_t *)y + at, there, _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
#endif
}

#endif
