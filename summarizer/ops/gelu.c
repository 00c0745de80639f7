/* GELU in its tanh form and its derivative on bf16, each in one pass over memory.
 *
 * Both are of the sigmoid: 1 + tanh(u) = 2 sigmoid(2 u), which near 0 loses nothing. Source: Hendrycks and Gimpel 2016
 * (arXiv:1606.08415).
 */
#include <stdint.h>

#include "vectors.h"

#ifndef __AVX512BF16__
#error "made for processors that know bf16"
#endif

#define STRETCH 4096 /* numbers that a thread takes at a time */
#define FLAT 30.0f /* beyond it the sigmoid is 0 or 1 to the last bit of fp32 */
#define SLOPE 0.79788456f /* sqrt(2 / pi) */
#define CUBE 0.044715f
#define LOG2_E 1.44269504f

INLINE __m512 number(float x) { return _mm512_set1_ps(x); }
INLINE __m512 load(const uint16_t *x, __mmask16 there) {
    return widened(_mm256_maskz_loadu_epi16(there, x));
}
INLINE void store(uint16_t *y, __mmask16 there, __m512 x) {
    _mm256_mask_storeu_epi16(y, there, (__m256i)_mm512_cvtneps_pbh(x));
}

/* NaN stays NaN: the second operand is what both instructions return of one. */
INLINE __m512 near_zero(__m512 x) { return _mm512_min_ps(number(FLAT), _mm512_max_ps(number(-FLAT), x)); }

/* sigmoid(2 sqrt(2 / pi) (x + CUBE x^3)) of an x that is near zero. */
INLINE __m512 share(__m512 x, __m512 square) {
    __m512 u = _mm512_mul_ps(x, _mm512_fmadd_ps(square, number(CUBE), number(1)));
    __m512 power = power_of_two(_mm512_mul_ps(u, number(-2 * SLOPE * LOG2_E)));
    return _mm512_div_ps(number(1), _mm512_add_ps(number(1), power));
}

void gelu(const uint16_t *x, long count, uint16_t *y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > STRETCH)
    for (long start = 0; start < count; start += STRETCH)
        for (long i = start; i < start + STRETCH && i < count; i += FLOATS) {
            __mmask16 there = first(count - i);
            __m512 own = load(x + i, there), near = near_zero(own);
            store(y + i, there, _mm512_mul_ps(own, share(near, _mm512_mul_ps(near, near))));
        }
}

/* The gradient of x from that of y: s + x s (1 - s) 2 u', of the share s. */
void gelu_backward(const uint16_t *grad, const uint16_t *x, long count, uint16_t *grad_x, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > STRETCH)
    for (long start = 0; start < count; start += STRETCH)
        for (long i = start; i < start + STRETCH && i < count; i += FLOATS) {
            __mmask16 there = first(count - i);
            __m512 near = near_zero(load(x + i, there)), square = _mm512_mul_ps(near, near), s = share(near, square);
            __m512 steep = _mm512_fmadd_ps(square, number(6 * SLOPE * CUBE), number(2 * SLOPE));
            __m512 moved = _mm512_mul_ps(_mm512_mul_ps(near, steep), _mm512_fnmadd_ps(s, s, s));
            store(grad_x + i, there, _mm512_mul_ps(load(grad + i, there), _mm512_add_ps(s, moved)));
        }
}
