/* What products of a few rows of x with stored weights share, whatever these are stored as: threads that take columns,
 * tiles of rows and columns, and what is added to a product. */
#ifndef DECODE_GEMM_H
#define DECODE_GEMM_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#define MOST 4 /* rows of x that share a pass over the weights */
#define AHEAD 4096 /* bytes that are asked for early, into the second cache; measured on two cores of an AMD EPYC 9004 */
#define CHUNK (192 << 10) /* bytes of weights that a thread takes at a time, in at most so many columns: */
#define COLUMNS 256
#define WORTH_THREADS (1 << 18) /* weights from which on waking another thread costs less than it saves */
#define WIDE 8 /* rows of W in int8 that share a row of x longer than: */
#define LONG 8192 /* values of x that the nearest cache does not hold beside weights */

/* All of y: threads take chunks of columns, from `start` to `end`, and multiply them with all rows of x. */
#define IN_CHUNKS(bytes_of_a_row, ...)                                                                            \
    {                                                                                                             \
        long most = (CHUNK / (bytes_of_a_row) + WIDE) / WIDE * WIDE, columns = most < COLUMNS ? most : COLUMNS;   \
        _Pragma("omp parallel for schedule(dynamic, 1) num_threads(p->threads) if (p->n * p->k > WORTH_THREADS)") \
        for (long start = 0; start < p->n; start += columns) {                                                    \
            long end = start + columns < p->n ? start + columns : p->n;                                           \
            __VA_ARGS__                                                                                           \
            add_the_rest(p, narrow, start, end);                                                                  \
        }                                                                                                         \
    }
/* One row of W after the other is how memory is read fastest; two at a time where x is worth loading once for both. */
#define TILES(tile, ...)                                                                                          \
    for (long column = start; column < end; column += 2) {                                                        \
        int pair = column + 1 < end;                                                                              \
        long row = 0;                                                                                             \
        for (; row + 4 <= p->m; row += 4) TILE(tile, 4, pair && 4 * p->k > LONG, __VA_ARGS__)                     \
        for (; row + 2 <= p->m; row += 2) TILE(tile, 2, pair && 2 * p->k > LONG, __VA_ARGS__)                     \
        for (; row < p->m; row++) TILE(tile, 1, pair && p->k > LONG, __VA_ARGS__)                                 \
    }
#define TILE(tile, M, together, ...)                                                                              \
    {                                                                                                             \
        if (together) tile(M, 2, __VA_ARGS__, row, column);                                                       \
        else for (long c = column; c <= column + pair; c++) tile(M, 1, __VA_ARGS__, row, c);                      \
    }

/* All arrays are dense; shapes in the order of their axes. */
typedef struct {
    const float *x; /* (m, k) */
    long m, k, n;
    const float *bias; /* (n), or none */
    const float *a, *b, *scale; /* (trials, dim, k), (trials, dim, n), (trials); rows of x lie trial by trial */
    long trials, dim; /* 0 without adapters */
    float *y; /* (m, n) */
    int threads;
} Product;

/* From byte `at` of N rows of W: what follows the end of a row is the next one, which this tile may hold already. */
INLINE long ahead(const int N, long at, long bytes) { return at + AHEAD < bytes ? AHEAD : AHEAD + (N - 1) * bytes; }

/* ---- the adapters: x A^T before the weights are read, its product with B as y is written ---- */

static void narrow_products(const Product *p, float *narrow /* (m, dim) */) {
    long rows_of_trial = p->trials ? p->m / p->trials : 1;
#pragma omp parallel for num_threads(p->threads) if (p->m * p->dim * p->k > 1 << 17)
    for (long at = 0; at < p->m * p->dim; at++) {
        long row = at / p->dim, d = at % p->dim, trial = row / rows_of_trial;
        const float *x = p->x + row * p->k, *a = p->a + (trial * p->dim + d) * p->k;
        __m512 sums = _mm512_setzero_ps();
        for (long i = 0; i < p->k; i += FLOATS) {
            __mmask16 there = first(p->k - i);
            sums = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(there, x + i), _mm512_maskz_loadu_ps(there, a + i), sums);
        }
        narrow[at] = _mm512_reduce_add_ps(sums) * p->scale[trial];
    }
}

/* What W's product left out, for columns from `start` to `end`. */
static void add_the_rest(const Product *p, const float *narrow, long start, long end) {
    long rows_of_trial = p->trials ? p->m / p->trials : 1;
    for (long row = 0; row < p->m; row++)
        for (long i = start; i < end; i += FLOATS) {
            __mmask16 there = first(end - i);
            float *y = p->y + row * p->n + i;
            __m512 sum = _mm512_maskz_loadu_ps(there, y);
            if (p->bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, p->bias + i));
            for (long d = 0; d < p->dim; d++) {
                const float *b = p->b + (row / rows_of_trial * p->dim + d) * p->n + i;
                __m512 weight = _mm512_set1_ps(narrow[row * p->dim + d]);
                sum = _mm512_fmadd_ps(weight, _mm512_maskz_loadu_ps(there, b), sum);
            }
            _mm512_mask_storeu_ps(y, there, sum);
        }
}

#endif
