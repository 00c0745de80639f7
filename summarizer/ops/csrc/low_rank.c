/* The narrow products of low-rank pairs beside a layer in training, for numbers in bf16 or fp32. Each reads its wide tensor
 * once, and is bound by that: a library's products, made for wide ones, take several times as long. Sums are in fp32, each
 * row's or column's in an order of its own, whatever the threads and the other trials.
 */
#include <stdint.h>

#include "either_precision.h"

#ifndef __AVX512BF16__
#error "made for processors that know bf16"
#endif

#define ROWS 4   /* of a wide tensor at a time */
#define DIMS 4   /* of a pair at a time */
#define PANELS 4 /* registers of columns at a time */

/* All arrays are dense but for what pairs leave out: trials lie behind each other, each with as many rows. */
typedef struct {
    void *x;     /* (trials, rows, d), in bf16 or fp32 */
    float *own;  /* (trials, rows, r) */
    float *pair; /* (trials, pair_rows, d), of each trial's the first r */
    const float *scale; /* (trials) */
    long trials, rows, d, r, pair_rows;
    int in_bf16, threads;
} LowRank;

/* Call a function of constants: how many rows or dims are left decides which. */
#define FULL_OR_LESS(DO, count) \
    switch (count) {            \
    case 1: DO(1); break;       \
    case 2: DO(2); break;       \
    case 3: DO(3); break;       \
    default: DO(4);             \
    }

/* ---- own = scale x pair^T ---- */

INLINE void narrow_tile(const LowRank *p, long trial, long row, long dim, int rows, int dims, int in_bf16) {
    const float *pair = p->pair + (trial * p->pair_rows + dim) * p->d;
    long at = (trial * p->rows + row) * p->d;
    __m512 sums[ROWS][DIMS];
    FOR(i, rows) FOR(j, dims) sums[i][j] = _mm512_setzero_ps();
    for (long column = 0; column < p->d; column += FLOATS) {
        __mmask16 there = first(p->d - column);
        __m512 pairs[DIMS];
        FOR(j, dims) pairs[j] = _mm512_maskz_loadu_ps(there, pair + j * p->d + column);
        FOR(i, rows) {
            __m512 x = load(p->x, at + i * p->d + column, there, in_bf16);
            FOR(j, dims) sums[i][j] = _mm512_fmadd_ps(x, pairs[j], sums[i][j]);
        }
    }
    float *own = p->own + (trial * p->rows + row) * p->r + dim;
    FOR(i, rows) FOR(j, dims) own[i * p->r + j] = p->scale[trial] * _mm512_reduce_add_ps(sums[i][j]);
}

INLINE void narrow_rows(const LowRank *p, long trial, long row, int rows, int in_bf16) {
    for (long dim = 0; dim < p->r; dim += DIMS) {
#define TILE(dims) narrow_tile(p, trial, row, dim, rows, dims, in_bf16)
        FULL_OR_LESS(TILE, p->r - dim)
#undef TILE
    }
}

/* Rows of all trials by fours, within their trial. */
#define FOR_ROWS(p)                                                         \
    _Pragma("omp parallel for collapse(2) schedule(static) num_threads(p->threads)") \
    for (long trial = 0; trial < p->trials; trial++)                        \
        for (long row = 0; row < p->rows; row += ROWS)

void narrow(const LowRank *p) {
    FOR_ROWS(p) {
#define ROWS_OF(rows) p->in_bf16 ? narrow_rows(p, trial, row, rows, 1) : narrow_rows(p, trial, row, rows, 0)
        FULL_OR_LESS(ROWS_OF, p->rows - row)
#undef ROWS_OF
    }
}

/* ---- x += own pair ---- */

INLINE void add_rows(const LowRank *p, long trial, long row, int rows, int in_bf16) {
    const float *pair = p->pair + trial * p->pair_rows * p->d, *own = p->own + (trial * p->rows + row) * p->r;
    long at = (trial * p->rows + row) * p->d;
    for (long column = 0; column < p->d; column += FLOATS) {
        __mmask16 there = first(p->d - column);
        __m512 sums[ROWS];
        FOR(i, rows) sums[i] = load(p->x, at + i * p->d + column, there, in_bf16);
        for (long j = 0; j < p->r; j++) {
            __m512 pairs = _mm512_maskz_loadu_ps(there, pair + j * p->d + column);
            FOR(i, rows) sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(own[i * p->r + j]), pairs, sums[i]);
        }
        FOR(i, rows) store(p->x, at + i * p->d + column, there, sums[i], in_bf16);
    }
}

void add_widened(const LowRank *p) {
    FOR_ROWS(p) {
#define ROWS_OF(rows) p->in_bf16 ? add_rows(p, trial, row, rows, 1) : add_rows(p, trial, row, rows, 0)
        FULL_OR_LESS(ROWS_OF, p->rows - row)
#undef ROWS_OF
    }
}

/* ---- pair = own^T x ---- */

INLINE void sum_tile(const LowRank *p, long trial, long column, long dim, int dims, int in_bf16) {
    __m512 sums[PANELS][DIMS];
    __mmask16 there[PANELS];
    FOR(k, PANELS) there[k] = first(p->d - column - k * FLOATS);
    FOR(k, PANELS) FOR(j, dims) sums[k][j] = _mm512_setzero_ps();
    for (long row = 0; row < p->rows; row++) {
        const float *own = p->own + (trial * p->rows + row) * p->r + dim;
        long at = (trial * p->rows + row) * p->d + column;
        FOR(k, PANELS) {
            __m512 x = load(p->x, at + k * FLOATS, there[k], in_bf16);
            FOR(j, dims) sums[k][j] = _mm512_fmadd_ps(_mm512_set1_ps(own[j]), x, sums[k][j]);
        }
    }
    float *to = p->pair + (trial * p->pair_rows + dim) * p->d + column;
    FOR(k, PANELS) FOR(j, dims) _mm512_mask_storeu_ps(to + j * p->d + k * FLOATS, there[k], sums[k][j]);
}

void sum_rows(const LowRank *p) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(p->threads)
    for (long trial = 0; trial < p->trials; trial++)
        for (long column = 0; column < p->d; column += PANELS * FLOATS)
            for (long dim = 0; dim < p->r; dim += DIMS) {
#define TILE(dims) p->in_bf16 ? sum_tile(p, trial, column, dim, dims, 1) : sum_tile(p, trial, column, dim, dims, 0)
                FULL_OR_LESS(TILE, p->r - dim)
#undef TILE
            }
}
