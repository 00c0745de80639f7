/* Rows of x as whole numbers of 16 bits, each row on its own absmax grid. */
#ifndef WHOLE_NUMBERS_H
#define WHOLE_NUMBERS_H

#include "decode_gemm.h"

#ifndef __AVX512VNNI__
#error "made for processors that have AVX-512 with VNNI"
#endif

#define LEVELS 32639 /* 127 * 256 + 127: the largest whole number of two signed bytes */

/* Steps to a unit of x, k numbers of it on their own absmax grid; and the step, NaN with a value that is not finite. */
static float grid(const float *x, long k, float *step) {
    __m512 largest = _mm512_setzero_ps();
    __mmask16 broken = 0;
    for (long i = 0; i < k; i += FLOATS) {
        __m512 size = _mm512_abs_ps(_mm512_maskz_loadu_ps(first(k - i), x + i));
        broken |= _mm512_cmp_ps_mask(size, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
        largest = _mm512_max_ps(largest, size);
    }
    float absmax = _mm512_reduce_max_ps(largest);
    *step = broken ? NAN : absmax / LEVELS;
    return absmax > 1e-30f ? LEVELS / absmax : 0;
}

/* ---- as two signed bytes, 256 high + low ---- */

typedef struct {
    int8_t *high, *low; /* (m, padded) */
    long padded;        /* k up to whole registers */
    float *steps;       /* (m); NaN for a row with a value that is not finite */
    int64_t *offsets;   /* (m): what 128 on every weight adds */
} Whole;

static void whole_numbers(const Product *p, Whole *w, long row) {
    const float *x = p->x + row * p->k;
    float step, inverse = grid(x, p->k, &step);
    __m512i sum = _mm512_setzero_si512(), sum_low = sum;
    for (long i = 0; i < w->padded; i += FLOATS) {
        __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(first(p->k - i), x + i), _mm512_set1_ps(inverse));
        __m512i q = _mm512_cvtps_epi32(scaled);
        __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
        __m512i low = _mm512_sub_epi32(q, _mm512_slli_epi32(high, 8));
        sum = _mm512_add_epi32(sum, high);
        sum_low = _mm512_add_epi32(sum_low, low);
        _mm_storeu_si128((__m128i *)(w->high + row * w->padded + i), _mm512_cvtepi32_epi8(high));
        _mm_storeu_si128((__m128i *)(w->low + row * w->padded + i), _mm512_cvtepi32_epi8(low));
    }
    w->offsets[row] = 128 * (256 * (int64_t)_mm512_reduce_add_epi32(sum) + _mm512_reduce_add_epi32(sum_low));
    w->steps[row] = step;
}

INLINE int64_t total(__m512i sums) {
    __m512i half = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sums));
    return _mm512_reduce_add_epi64(
        _mm512_add_epi64(half, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sums, 1))));
}

#endif
