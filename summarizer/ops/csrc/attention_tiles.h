/* Products of pairs of bf16, in tiles of ROWS x PANEL fp32 sums that stay in registers; and rows laid as tiles read them. */
#ifndef ATTENTION_TILES_H
#define ATTENTION_TILES_H

#include <stdint.h>

#include "vectors.h"

#ifndef __AVX512BF16__
#error "made for processors that have products of bf16"
#endif

#define PANEL 64 /* columns of a tile: four registers */
#define ROWS 6   /* of a tile: 24 of the 32 registers hold sums; even, since the backward pass pairs queries */

INLINE long least(long a, long b) { return a < b ? a : b; }

/* c (rows, 16 n) = or += a b. a: pairs of bf16, `apart` words from row to row and `on` from pair to pair. b: (pairs, PANEL). */
INLINE void tile(const uint32_t *a, long apart, long on, const uint32_t *b, long pairs, float *c, long width, int add,
                 const int rows, const int n) {
    __m512 sums[ROWS][PANEL / FLOATS];
    FOR(r, rows)
        FOR(i, n) sums[r][i] = add ? _mm512_loadu_ps(c + r * width + i * FLOATS) : _mm512_setzero_ps();
    for (long pair = 0; pair < pairs; pair++, a += on, b += PANEL) {
        __m512bh columns[PANEL / FLOATS];
        FOR(i, n) columns[i] = (__m512bh)_mm512_loadu_si512(b + i * FLOATS);
        FOR(r, rows) {
            __m512bh own = (__m512bh)_mm512_set1_epi32(a[r * apart]);
            FOR(i, n) sums[r][i] = _mm512_dpbf16_ps(sums[r][i], own, columns[i]);
        }
    }
    FOR(r, rows)
        FOR(i, n) _mm512_storeu_ps(c + r * width + i * FLOATS, sums[r][i]);
}

INLINE void tile_of(const uint32_t *a, long apart, long on, const uint32_t *b, long pairs, float *c, long width, int add,
                    const int rows, int n) {
    if (n == 4) tile(a, apart, on, b, pairs, c, width, add, rows, 4);
    else if (n == 3) tile(a, apart, on, b, pairs, c, width, add, rows, 3);
    else if (n == 2) tile(a, apart, on, b, pairs, c, width, add, rows, 2);
    else tile(a, apart, on, b, pairs, c, width, add, rows, 1);
}

INLINE void any_rows(const uint32_t *a, long apart, long on, const uint32_t *b, long pairs, float *c, long width, int add,
                     long rows, int n) {
    if (rows == ROWS) {
        tile_of(a, apart, on, b, pairs, c, width, add, ROWS, n);
        return;
    }
    if (rows & 4) tile_of(a, apart, on, b, pairs, c, width, add, 4, n), a += 4 * apart, c += 4 * width;
    if (rows & 2) tile_of(a, apart, on, b, pairs, c, width, add, 2, n), a += 2 * apart, c += 2 * width;
    if (rows & 1) tile_of(a, apart, on, b, pairs, c, width, add, 1, n);
}

/* Up to ROWS rows whose own pairs lie side by side, or whose rows do. */
static __attribute__((noinline)) void by_row(const uint32_t *a, long apart, const uint32_t *b, long pairs, float *c,
                                             long width, int add, long rows, int n) {
    any_rows(a, apart, 1, b, pairs, c, width, add, rows, n);
}
static __attribute__((noinline)) void by_column(const uint32_t *a, const uint32_t *b, long pairs, float *c, long width,
                                                int add, long rows, int n) {
    any_rows(a, 1, PANEL, b, pairs, c, width, add, rows, n);
}

INLINE int registers_of(long columns) { return (int)((least(columns, PANEL) + FLOATS - 1) / FLOATS); }

/* to (d / 2, PANEL) = up to PANEL rows as columns, zeros behind them. */
static void turned(const uint16_t *from, long token, long rows, long d, uint32_t *to) {
    for (long row = 0; row < PANEL; row += FLOATS)
        for (long pair = 0; pair < d / 2; pair += FLOATS) {
            __m512i words[FLOATS];
            __mmask16 there = first(d / 2 - pair);
            for (long i = 0; i < FLOATS; i++)
                words[i] = row + i < rows ? _mm512_maskz_loadu_epi32(there, from + (row + i) * token + 2 * pair)
                                          : _mm512_setzero_si512();
            transpose(words);
            for (long i = 0; i < FLOATS && pair + i < d / 2; i++) _mm512_storeu_si512(to + (pair + i) * PANEL + row, words[i]);
        }
}

INLINE __m512i side_by_side(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

/* to (panels of d, pairs, PANEL): each row beside its next, zeros behind the last. */
static void paired(const uint16_t *from, long token, long rows, long d, long pairs, uint32_t *to) {
    for (long panel = 0; panel < d; panel += PANEL, to += pairs * PANEL)
        for (long row = 0; row < rows; row += 2)
            for (long i = panel; i < least(d, panel + PANEL); i += FLOATS) {
                const uint16_t *even = from + row * token + i;
                __m256i odd = row + 1 < rows ? _mm256_loadu_si256((const __m256i *)(even + token)) : _mm256_setzero_si256();
                _mm512_storeu_si512(to + row / 2 * PANEL + i - panel,
                                    side_by_side(_mm256_loadu_si256((const __m256i *)even), odd));
            }
}

#endif
