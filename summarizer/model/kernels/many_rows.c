/* What lies around a product of whole numbers for many rows: rounding x to int8 with its largest columns apart before it,
 * and putting the two products together after it, each in one pass over memory.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
#error "made for processors that have AVX-512"
#endif

#define INLINE static inline __attribute__((always_inline))
#define FLOATS 16 /* of a register */
#define LEVELS 127.0f

INLINE __mmask16 first(long count) { return count >= FLOATS ? 0xffff : (__mmask16)((1u << count) - 1); }

/* 16 numbers of bf16 or fp32 from place `at`, zeros behind the end. */
INLINE __m512 load(const void *x, long at, __mmask16 there, int in_bf16) {
    if (!in_bf16) return _mm512_maskz_loadu_ps(there, (const float *)x + at);
    __m256i halves = _mm256_maskz_loadu_epi16(there, (const uint16_t *)x + at);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* The largest absolute value of each column of x (m, k). */
void column_absmax(const void *x, long m, long k, int in_bf16, float *absmax /* (k) */, int threads) {
    const long wide = 16 * FLOATS;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long start = 0; start < k; start += wide) {
        long end = start + wide < k ? start + wide : k;
        for (long i = start; i < end; i++) absmax[i] = 0;
        for (long row = 0; row < m; row++)
            for (long i = start; i < end; i += FLOATS) {
                __mmask16 there = first(end - i);
                __m512 size = _mm512_abs_ps(load(x, row * k + i, there, in_bf16));
                __m512 before = _mm512_maskz_loadu_ps(there, absmax + i);
                _mm512_mask_storeu_ps(absmax + i, there, _mm512_max_ps(before, size));
            }
    }
}

/* x (m, k) on each row's own absmax grid, columns with keep 0 left out. A row that is not finite has a step of NaN. */
void quantise_rows(const void *x, long m, long k, int in_bf16, const float *keep /* (k) */, int8_t *q /* (m, k) */,
                   float *steps /* (m) */, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < m; row++) {
        __m512 largest = _mm512_setzero_ps();
        __mmask16 broken = 0;
        for (long i = 0; i < k; i += FLOATS) {
            __mmask16 there = first(k - i);
            __m512 size = _mm512_abs_ps(load(x, row * k + i, there, in_bf16));
            broken |= _mm512_cmp_ps_mask(size, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
            largest = _mm512_max_ps(largest, _mm512_mul_ps(size, _mm512_maskz_loadu_ps(there, keep + i)));
        }
        float absmax = _mm512_reduce_max_ps(largest), inverse = absmax > 1e-30f ? LEVELS / absmax : 0;
        for (long i = 0; i < k; i += FLOATS) {
            __mmask16 there = first(k - i);
            __m512 kept = _mm512_mul_ps(_mm512_maskz_loadu_ps(there, keep + i), _mm512_set1_ps(inverse));
            __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(load(x, row * k + i, there, in_bf16), kept));
            _mm_mask_storeu_epi8(q + row * k + i, there, _mm512_cvtepi32_epi8(whole));
        }
        steps[row] = broken ? NAN : absmax / LEVELS;
    }
}

/* Some columns of W as bf16, which holds every int8 exactly. */
void gather_columns(const int8_t *w /* (n, k) */, long n, long k, const int64_t *columns, long count,
                    uint16_t *out /* (n, count) */, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < n; row++)
        for (long i = 0; i < count; i++) {
            union { float number; uint32_t bits; } value = {w[row * k + columns[i]]};
            out[row * count + i] = value.bits >> 16;
        }
}

/* y = (step of the row * sums + apart) * scale of the column, rounded to the nearest bf16 where that is asked for. */
void put_together(const int32_t *sums, const uint16_t *apart /* bf16; both (m, n) */, const float *steps /* (m) */,
                  const float *scale /* (n) */, long m, long n, void *y /* (m, n) */, int in_bf16, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < m; row++) {
        __m512 step = _mm512_set1_ps(steps[row]);
        for (long i = 0; i < n; i += FLOATS) {
            __mmask16 there = first(n - i);
            long at = row * n + i;
            __m512 sum = _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(there, sums + at));
            sum = _mm512_fmadd_ps(sum, step, load(apart, at, there, 1));
            sum = _mm512_mul_ps(sum, _mm512_maskz_loadu_ps(there, scale + i));
            if (!in_bf16) {
                _mm512_mask_storeu_ps((float *)y + at, there, sum);
                continue;
            }
            __m512i bits = _mm512_castps_si512(sum);
            __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            __mmask16 nan = _mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q); /* whose bits would carry over */
            up = _mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000));
            _mm256_mask_storeu_epi16((uint16_t *)y + at, there, _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
        }
    }
}
