/* y = x W^T + bias + scale (x A^T) B for a few rows of x with W as checkpoints have it, in fp32, bf16 or fp16.
 *
 * As decode_gemm.c, at the rate at which memory gives W: 16 weights become fp32 in a register, which bf16 and fp16 do without
 * loss, and each row of x is multiplied with them there. Sums are in fp32, each in the same order however many rows there are.
 */
#include "decode_gemm.h"

#define SUMS 2 /* of each product, by turns: the next one does not wait for the last */

enum { FP32, BF16, FP16 };

INLINE long bytes_of(const int kind) { return kind == FP32 ? 4 : 2; }

/* Zeros where no number is there. */
INLINE __m512 weights_at(const int kind, const char *w, __mmask16 there) {
    if (kind == FP32) return _mm512_maskz_loadu_ps(there, w);
    __m256i halves = _mm256_maskz_loadu_epi16(there, w);
    return kind == BF16 ? widened(halves) : _mm512_cvtph_ps(halves);
}

/* The products of SUMS registers of each row, from weight `at` on. */
INLINE void dense_step(const int kind, const int M, const int N, const Product *p, const char *w, const float *x, long at,
                       const __mmask16 there[SUMS], __m512 sums[MOST][2][SUMS]) {
    const long bytes = p->k * bytes_of(kind);
    FOR(part, SUMS) {
        __m512 weights[2];
        const long place = at + part * FLOATS;
        FOR(j, N) {
            const char *own = w + j * bytes + place * bytes_of(kind);
            if (part == 0 || kind == FP32) _mm_prefetch(own + ahead(N, place * bytes_of(kind), bytes), _MM_HINT_T1);
            weights[j] = weights_at(kind, own, there[part]);
        }
        FOR(i, M) {
            __m512 own = _mm512_maskz_loadu_ps(there[part], x + i * p->k + place);
            FOR(j, N) sums[i][j][part] = _mm512_fmadd_ps(weights[j], own, sums[i][j][part]);
        }
    }
}

/* M rows of x by N rows of W. */
INLINE void dense_tile(const int M, const int N, const int kind, const Product *p, const char *w, long row, long column) {
    const long step = SUMS * FLOATS;
    const float *x = p->x + row * p->k;
    __m512 sums[MOST][2][SUMS];
    FOR(i, M) FOR(j, N) FOR(part, SUMS) sums[i][j][part] = _mm512_setzero_ps();
    w += column * p->k * bytes_of(kind);
    const __mmask16 all[SUMS] = {0xffff, 0xffff};
    long at = 0;
    for (; at + step <= p->k; at += step) dense_step(kind, M, N, p, w, x, at, all, sums);
    const __mmask16 rest[SUMS] = {first(p->k - at), first(p->k - at - FLOATS)};
    if (at < p->k) dense_step(kind, M, N, p, w, x, at, rest, sums);
    FOR(i, M) FOR(j, N) p->y[(row + i) * p->n + column + j] =
        _mm512_reduce_add_ps(_mm512_add_ps(sums[i][j][0], sums[i][j][1]));
}

/* Returns 0, or 1 where there is no memory for what the adapters keep. */
INLINE int dense_product(const int kind, const Product *p, const char *w) {
    float *narrow = malloc((p->m * p->dim + 1) * sizeof *narrow);
    if (!narrow) return 1;
    if (p->dim) narrow_products(p, narrow);
    IN_CHUNKS(p->k * bytes_of(kind), TILES(dense_tile, kind, p, w))
    free(narrow);
    return 0;
}

int fp32_product(const Product *p, const char *w /* (n, k) */) { return dense_product(FP32, p, w); }
int bf16_product(const Product *p, const char *w /* (n, k) */) { return dense_product(BF16, p, w); }
int fp16_product(const Product *p, const char *w /* (n, k) */) { return dense_product(FP16, p, w); }
