/* Elementwise operations of training and of reading prompts on bf16, each in one pass over memory, in fp32 in between and
 * rounded once: GELU in its tanh form, SiLU times a gate, sums, rotary position embeddings, and columns by a factor of each.
 *
 * Sources: Hendrycks and Gimpel 2016 (arXiv:1606.08415); Shazeer 2020 (arXiv:2002.05202); Su et al. 2021
 * (arXiv:2104.09864).
 */
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#ifndef __AVX512BF16__
#error "made for processors that know bf16"
#endif

#define WORTH_THREADS (1 << 14) /* numbers from which on waking another thread costs less than it saves */

INLINE __m512 load(const uint16_t *x, __mmask16 there) { return widened(_mm256_maskz_loadu_epi16(there, x)); }
INLINE __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* ---- GELU and its derivative: both are of the sigmoid, 1 + tanh(u) = 2 sigmoid(2 u), which near 0 loses nothing ---- */

#define NUMBERS 4096 /* numbers that a thread takes at a time */
#define FLAT 30.0f /* beyond it the sigmoid is 0 or 1 to the last bit of fp32 */
#define SLOPE 0.79788456f /* sqrt(2 / pi) */
#define CUBE 0.044715f
#define LOG2_E 1.44269504f

INLINE __m512 number(float x) { return _mm512_set1_ps(x); }
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
#pragma omp parallel for schedule(static) num_threads(threads) if (count > NUMBERS)
    for (long start = 0; start < count; start += NUMBERS)
        for (long i = start; i < start + NUMBERS && i < count; i += FLOATS) {
            __mmask16 there = first(count - i);
            __m512 own = load(x + i, there), near = near_zero(own);
            store(y + i, there, _mm512_mul_ps(own, share(near, _mm512_mul_ps(near, near))));
        }
}

/* The gradient of x from that of y: s + x s (1 - s) 2 u', of the share s. */
void gelu_backward(const uint16_t *grad, const uint16_t *x, long count, uint16_t *grad_x, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > NUMBERS)
    for (long start = 0; start < count; start += NUMBERS)
        for (long i = start; i < start + NUMBERS && i < count; i += FLOATS) {
            __mmask16 there = first(count - i);
            __m512 near = near_zero(load(x + i, there)), square = _mm512_mul_ps(near, near), s = share(near, square);
            __m512 steep = _mm512_fmadd_ps(square, number(6 * SLOPE * CUBE), number(2 * SLOPE));
            __m512 moved = _mm512_mul_ps(_mm512_mul_ps(near, steep), _mm512_fnmadd_ps(s, s, s));
            store(grad_x + i, there, _mm512_mul_ps(load(grad + i, there), _mm512_add_ps(s, moved)));
        }
}

/* ---- SiLU times a gate: silu(gate) * up, of the sigmoid of the gate ---- */

#define EDGE 80.0f /* below its negative both are nothing, and above it the sigmoid is 1 */

/* The larger of x and -EDGE, NaN for NaN: what the product with a sigmoid is taken of. */
INLINE __m512 not_far_below(__m512 x) { return _mm512_max_ps(number(-EDGE), x); }

INLINE __m512 sigmoid(__m512 x) {
    __m512 power = power_of_two(_mm512_mul_ps(_mm512_min_ps(number(EDGE), x), number(-LOG2_E)));
    return _mm512_div_ps(number(1), _mm512_add_ps(number(1), power));
}

void silu_mul(const uint16_t *gate, const uint16_t *up, long count, uint16_t *y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > NUMBERS)
    for (long start = 0; start < count; start += NUMBERS)
        for (long i = start; i < start + NUMBERS && i < count; i += FLOATS) {
            __mmask16 there = first(count - i);
            __m512 own = not_far_below(load(gate + i, there));
            store(y + i, there, _mm512_mul_ps(_mm512_mul_ps(own, sigmoid(own)), load(up + i, there)));
        }
}

/* Of up it is grad g s, of the gate g it is grad up (s + g s (1 - s)); s is the gate's sigmoid. */
void silu_mul_backward(const uint16_t *grad, const uint16_t *gate, const uint16_t *up, long count, uint16_t *grad_gate,
                       uint16_t *grad_up, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > NUMBERS)
    for (long start = 0; start < count; start += NUMBERS)
        for (long i = start; i < start + NUMBERS && i < count; i += FLOATS) {
            __mmask16 there = first(count - i);
            __m512 own = not_far_below(load(gate + i, there)), of_y = load(grad + i, there), s = sigmoid(own);
            __m512 silu = _mm512_mul_ps(own, s), slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(number(1), s), s);
            store(grad_up + i, there, _mm512_mul_ps(of_y, silu));
            store(grad_gate + i, there, _mm512_mul_ps(_mm512_mul_ps(of_y, load(up + i, there)), slope));
        }
}

/* ---- residuals of prompts that are read: x += added ---- */

void add_bf16(float *x, const uint16_t *added, long count, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > NUMBERS)
    for (long start = 0; start < count; start += NUMBERS)
        for (long i = start; i < start + NUMBERS && i < count; i += FLOATS) {
            __mmask16 there = first(count - i);
            __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(there, x + i), load(added + i, there));
            _mm512_mask_storeu_ps(x + i, there, sum);
        }
}

/* ---- rotary position embeddings: two numbers of a head turn together, neighbors 2i and 2i + 1, as GPT-J has it
 * (interleaved), or i and half + i, as Llama has it ---- */

/* x, y: (tokens, heads, d), of which the first 2 half of each head turn and the others are copied. cos, sin: (tokens,
 * half), a number for each pair. back: the gradient, which is multiplied by the transposed matrix. */
void rotate(const uint16_t *x, const float *cos, const float *sin, long tokens, long heads, long d, long half,
            int interleaved, int back, uint16_t *y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (tokens * heads * d > WORTH_THREADS)
    for (long token = 0; token < tokens; token++) {
        const float *cosines = cos + token * half, *sines = sin + token * half;
        for (long head = 0; head < heads; head++) {
            const uint16_t *from = x + (token * heads + head) * d;
            uint16_t *to = y + (token * heads + head) * d;
            for (long i = 0; i < half; i += FLOATS) {
                __mmask16 there = first(half - i);
                __m512 a, b, c = _mm512_maskz_loadu_ps(there, cosines + i), s = _mm512_maskz_loadu_ps(there, sines + i);
                if (interleaved) {
                    __m512i pairs = _mm512_maskz_loadu_epi32(there, from + 2 * i);
                    a = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
                    b = _mm512_castsi512_ps(_mm512_and_epi32(pairs, _mm512_set1_epi32(0xffff0000)));
                } else {
                    a = load(from + i, there);
                    b = load(from + half + i, there);
                }
                __m512 straight_a = _mm512_mul_ps(a, c), straight_b = _mm512_mul_ps(b, c);
                __m256i turned_a = rounded(back ? _mm512_fmadd_ps(b, s, straight_a) : _mm512_fnmadd_ps(b, s, straight_a));
                __m256i turned_b = rounded(back ? _mm512_fnmadd_ps(a, s, straight_b) : _mm512_fmadd_ps(a, s, straight_b));
                if (interleaved) {
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

/* ---- columns by a factor of each ---- */

/* factor: (rows / each, columns), one row for each so many of x, trial by trial. y may be x. */
void scaled_columns(const uint16_t *x, const float *factor, long rows, long each, long columns, uint16_t *y,
                    int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * columns > WORTH_THREADS)
    for (long row = 0; row < rows; row++) {
        const float *own_factor = factor + row / each * columns;
        for (long i = 0; i < columns; i += FLOATS) {
            __mmask16 there = first(columns - i);
            __m512 own = widened(_mm256_maskz_loadu_epi16(there, x + row * columns + i));
            __m512 product = _mm512_mul_ps(own, _mm512_maskz_loadu_ps(there, own_factor + i));
            _mm256_mask_storeu_epi16(y + row * columns + i, there, (__m256i)_mm512_cvtneps_pbh(product));
        }
    }
}

/* out: (columns), the sum of x * y over the rows of each. */
#define TOGETHER 8 /* vectors of columns, whose sums stay in registers */
void column_dots(const uint16_t *x, const uint16_t *y, long rows, long columns, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * columns > WORTH_THREADS)
    for (long start = 0; start < columns; start += TOGETHER * FLOATS) {
        __m512 sums[TOGETHER];
        __mmask16 there[TOGETHER];
        for (int k = 0; k < TOGETHER; k++) {
            sums[k] = _mm512_setzero_ps();
            there[k] = first(columns - start - k * FLOATS);
        }
        for (long row = 0; row < rows; row++) {
            const uint16_t *own_x = x + row * columns + start, *own_y = y + row * columns + start;
            for (int k = 0; k < TOGETHER; k++)
                sums[k] = _mm512_fmadd_ps(load(own_x + k * FLOATS, there[k]), load(own_y + k * FLOATS, there[k]), sums[k]);
        }
        for (int k = 0; k < TOGETHER; k++) _mm512_mask_storeu_ps(out + start + k * FLOATS, there[k], sums[k]);
    }
}
