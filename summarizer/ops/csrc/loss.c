/* The negative log-likelihood of one token for each row of logits, and its gradient, each in one pass over memory: what is
 * kept between the passes is a number for each row, and the gradient is written in the precision of the logits.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "either_precision.h"

#ifndef __AVX512BF16__
#error "made for processors that know bf16"
#endif

/* All arrays are dense. */
typedef struct {
    const void *logits;     /* (rows, v), in bf16 or fp32 */
    const int64_t *targets; /* (rows); a negative one has no loss and no gradient, NaN is the loss of an unknown token */
    float *logs;            /* (rows): the logarithm of what softmax divides by */
    float *losses;          /* (rows): written forward, or their gradients backward */
    void *grads;            /* (rows, v), as the logits: backward only */
    long rows, v;
    int in_bf16, threads;
} TokenLosses;

INLINE float number_at(const void *x, long at, int in_bf16) { return _mm512_cvtss_f32(load(x, at, 1, in_bf16)); }

INLINE void loss_of_row(const TokenLosses *p, long row, int in_bf16) {
    long start = row * p->v, target = p->targets[row];
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (long i = 0; i < p->v; i += FLOATS) {
        __mmask16 there = first(p->v - i);
        most = _mm512_mask_max_ps(most, there, most, load(p->logits, start + i, there, in_bf16));
    }
    float largest = _mm512_reduce_max_ps(most);
    most = _mm512_set1_ps(largest);
    for (long i = 0; i < p->v; i += FLOATS) {
        __mmask16 there = first(p->v - i);
        __m512 share = exponential(_mm512_sub_ps(load(p->logits, start + i, there, in_bf16), most));
        sum = _mm512_mask_add_ps(sum, there, sum, share);
    }
    p->logs[row] = largest + logf(_mm512_reduce_add_ps(sum));
    if (target < 0) p->losses[row] = 0;
    else if (target >= p->v) p->losses[row] = NAN;
    else p->losses[row] = p->logs[row] - number_at(p->logits, start + target, in_bf16);
}

INLINE void gradient_of_row(const TokenLosses *p, long row, int in_bf16) {
    long start = row * p->v, target = p->targets[row];
    if (target < 0) {
        long bytes = p->v * (in_bf16 ? sizeof(uint16_t) : sizeof(float));
        memset((char *)p->grads + row * bytes, 0, bytes);
        return;
    }
    __m512 log = _mm512_set1_ps(p->logs[row]), grad = _mm512_set1_ps(p->losses[row]);
    for (long i = 0; i < p->v; i += FLOATS) {
        __mmask16 there = first(p->v - i);
        __m512 share = exponential(_mm512_sub_ps(load(p->logits, start + i, there, in_bf16), log));
        __mmask16 is_target = target - i >= 0 && target - i < FLOATS ? (__mmask16)(1u << (target - i)) : 0;
        share = _mm512_mask_sub_ps(share, is_target, share, _mm512_set1_ps(1));
        store(p->grads, start + i, there, _mm512_mul_ps(share, grad), in_bf16);
    }
}

void token_losses(const TokenLosses *p) {
#pragma omp parallel for schedule(static) num_threads(p->threads)
    for (long row = 0; row < p->rows; row++) p->in_bf16 ? loss_of_row(p, row, 1) : loss_of_row(p, row, 0);
}

void token_losses_backward(const TokenLosses *p) {
#pragma omp parallel for schedule(static) num_threads(p->threads)
    for (long row = 0; row < p->rows; row++) p->in_bf16 ? gradient_of_row(p, row, 1) : gradient_of_row(p, row, 0);
}
