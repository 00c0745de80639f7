/* Columns of bf16 by a factor of each in fp32, rounded once, in one pass over memory. */
#include <stdint.h>

#include "vectors.h"

#ifndef __AVX512BF16__
#error "made for processors that know bf16"
#endif

#define WORTH_THREADS (1 << 14) /* numbers from which on waking another thread costs less than it saves */

/* y may be x. */
void scaled_columns(const uint16_t *x, const float *factor, long rows, long columns, uint16_t *y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * columns > WORTH_THREADS)
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < columns; i += FLOATS) {
            __mmask16 there = first(columns - i);
            __m512 own = widened(_mm256_maskz_loadu_epi16(there, x + row * columns + i));
            __m512 product = _mm512_mul_ps(own, _mm512_maskz_loadu_ps(there, factor + i));
            _mm256_mask_storeu_epi16(y + row * columns + i, there, (__m256i)_mm512_cvtneps_pbh(product));
        }
}
