/* Rotary position embeddings on bf16, in one pass over memory, in fp32 in between.
 *
 * Two numbers of a head turn together: neighbors 2i and 2i + 1, as GPT-J has it, or i and half + i, as Llama has it.
 * Source: Su et al. 2021 (arXiv:2104.09864).
 */
#include <string.h>

#include "vectors.h"

#ifndef __AVX512BF16__
#error "made for processors that know bf16"
#endif

#define WORTH_THREADS (1 << 14) /* numbers from which on waking another thread costs less than it saves */

INLINE __m512 load(const uint16_t *x, __mmask16 there) { return widened(_mm256_maskz_loadu_epi16(there, x)); }
INLINE __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* x, y: (tokens, heads, d), of which the first 2 half of each head turn and the others are copied. cos, sin: (places,
 * neighbors ? half : 2 half), places a divisor of tokens: a number for each pair, or for each number. back: the gradient,
 * which is multiplied by the transposed matrix. */
void rotate(const uint16_t *x, const float *cos, const float *sin, long tokens, long heads, long d, long places, long half,
            int neighbors, int back, uint16_t *y, int threads) {
    const long other = neighbors ? 0 : half, width = half + other;
#pragma omp parallel for schedule(static) num_threads(threads) if (tokens * heads * d > WORTH_THREADS)
    for (long token = 0; token < tokens; token++) {
        const float *cosines = cos + token % places * width, *sines = sin + token % places * width;
        for (long head = 0; head < heads; head++) {
            const uint16_t *from = x + (token * heads + head) * d;
            uint16_t *to = y + (token * heads + head) * d;
            for (long i = 0; i < half; i += FLOATS) {
                __mmask16 there = first(half - i);
                __m512 a, b, s = _mm512_maskz_loadu_ps(there, sines + i), t = _mm512_maskz_loadu_ps(there, sines + other + i);
                if (neighbors) {
                    __m512i pairs = _mm512_maskz_loadu_epi32(there, from + 2 * i);
                    a = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
                    b = _mm512_castsi512_ps(_mm512_and_epi32(pairs, _mm512_set1_epi32(0xffff0000)));
                } else {
                    a = load(from + i, there);
                    b = load(from + half + i, there);
                }
                __m512 straight_a = _mm512_mul_ps(a, _mm512_maskz_loadu_ps(there, cosines + i));
                __m512 straight_b = _mm512_mul_ps(b, _mm512_maskz_loadu_ps(there, cosines + other + i));
                __m256i turned_a = rounded(back ? _mm512_fmadd_ps(b, t, straight_a) : _mm512_fnmadd_ps(b, s, straight_a));
                __m256i turned_b = rounded(back ? _mm512_fnmadd_ps(a, s, straight_b) : _mm512_fmadd_ps(a, t, straight_b));
                if (neighbors) {
                    __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(turned_b), 16);
                    _mm512_mask_storeu_epi32(to + 2 * i, there, _mm512_or_epi32(_mm512_cvtepu16_epi32(turned_a), high));
                } else {
                    _mm256_mask_storeu_epi16(to + i, there, turned_a);
                    _mm256_mask_storeu_epi16(to + half + i, there, turned_b);
                }
            }
            memcpy(to + 2 * half, from + 2 * half, (d - 2 * half) * sizeof(*to));
        }
    }
}
