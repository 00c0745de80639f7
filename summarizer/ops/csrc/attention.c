/* softmax(scaling q k^T + causal mask) v of packed examples in bf16, forward and backward, head by head.
 *
 * Products are of pairs of bf16 summed in fp32, in tiles of ROWS x 64 numbers that stay in registers; scores and their
 * exponentials never leave the caches. Kept between the passes: the output and one logarithm for each query, as in
 * FlashAttention (Dao 2023, arXiv:2307.08691). One thread has one head of one example to itself, and sums in an order that
 * is always the same: neighbors, their order and the number of threads change no bit.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attention_tiles.h"

#define QUERIES 48 /* at a time in the forward pass: whole tiles */
#define BLOCK PANEL /* queries and keys at a time in the backward pass */
#define WORTH_THREADS (1 << 16) /* products from which on waking another thread costs less than it saves */

typedef struct {
    uint16_t *first;
    long token, head; /* numbers from one to the next; a head's own lie side by side */
} Heads;

typedef struct {
    Heads q, k, v, out;
    float *logs;           /* (tokens, heads): base 2, of the sum of what softmax divides by */
    Heads grad_out, grad_q, grad_k, grad_v; /* backward only */
    float *shares;         /* (2, tokens, heads, d): gradients of k and v by head, where heads share them; else NULL */
    const int64_t *starts, *ends; /* (examples), the longest first */
    long examples, tokens, heads, kv_heads, d;
    float scaling;
    int threads;
} Causal;

INLINE uint16_t *row_of(const Heads *x, long token, long head) { return x->first + token * x->token + head * x->head; }
INLINE __m512 numbers(const uint16_t *x) { return widened(_mm256_loadu_si256((const __m256i *)x)); }
INLINE __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* Of one query: scores (base 2 once scaled) to weights in bf16 that are not yet divided by their sum. Returns the sum. */
static float weigh(const float *scores, long keys, long zeros_to, float scale, uint16_t *weights, float *largest) {
    __m512 most = _mm512_set1_ps(-INFINITY), by = _mm512_set1_ps(scale), sum = _mm512_setzero_ps();
    for (long i = 0; i < keys; i += FLOATS)
        most = _mm512_mask_max_ps(most, first(keys - i), most, _mm512_mul_ps(_mm512_loadu_ps(scores + i), by));
    *largest = _mm512_reduce_max_ps(most);
    most = _mm512_set1_ps(*largest);
    for (long i = 0; i < zeros_to; i += FLOATS) {
        __m512 weight = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), by, most));
        weight = _mm512_maskz_mov_ps(first(keys - i), weight);
        sum = _mm512_add_ps(sum, weight);
        _mm256_storeu_si256((__m256i *)(weights + i), rounded(weight));
    }
    return _mm512_reduce_add_ps(sum);
}

#define LOG2_E 1.44269504f

/* scratch: as many words as forward_words says. */
static void forward(const Causal *a, long start, long t, long head, uint32_t *scratch) {
    long d = a->d, kv_head = head / (a->heads / a->kv_heads), padded = up_to(t, PANEL), wide = up_to(d, PANEL);
    uint32_t *keys = scratch, *values = keys + padded * d / 2;
    float *scores = (float *)(values + padded / 2 * wide), *mixed = scores + QUERIES * padded;
    uint16_t *weights = (uint16_t *)(mixed + ROWS * PANEL);
    for (long key = 0; key < t; key += PANEL)
        turned(row_of(&a->k, start + key, kv_head), a->k.token, t - key, d, keys + key * d / 2);
    paired(row_of(&a->v, start, kv_head), a->v.token, t, d, padded / 2, values);
    for (long begin = 0; begin < t; begin += QUERIES) {
        long end = least(begin + QUERIES, t);
        for (long key = 0; key < end; key += PANEL)
            for (long row = begin; row < end; row += ROWS) {
                long last = least(row + ROWS, end);
                if (last > key)
                    by_row((const uint32_t *)row_of(&a->q, start + row, head), a->q.token / 2, keys + key * d / 2, d / 2,
                           scores + (row - begin) * padded + key, padded, 0, last - row, registers_of(last - key));
            }
        for (long row = begin; row < end; row += ROWS) {
            long last = least(row + ROWS, end);
            float sums[ROWS];
            for (long i = row; i < last; i++) {
                float most;
                sums[i - row] = weigh(scores + (i - begin) * padded, i + 1, last, a->scaling * LOG2_E,
                                      weights + (i - row) * padded, &most);
                a->logs[(start + i) * a->heads + head] = most + log2f(sums[i - row]);
            }
            for (long panel = 0; panel < d; panel += PANEL) {
                by_row((const uint32_t *)weights, padded / 2, values + panel * padded / 2, (last + 1) / 2, mixed, PANEL, 0,
                       last - row, registers_of(d - panel));
                for (long i = row; i < last; i++)
                    for (long at = 0; at < least(PANEL, d - panel); at += FLOATS) {
                        __m512 sum = _mm512_loadu_ps(mixed + (i - row) * PANEL + at);
                        sum = _mm512_div_ps(sum, _mm512_set1_ps(sums[i - row]));
                        _mm256_storeu_si256((__m256i *)(row_of(&a->out, start + i, head) + panel + at), rounded(sum));
                    }
            }
        }
    }
}

static long forward_words(long t, long d) {
    long padded = up_to(t, PANEL), wide = up_to(d, PANEL);
    return padded * d / 2 + padded / 2 * wide + QUERIES * padded + ROWS * PANEL + ROWS * padded / 2;
}

/* What a thread has to itself in the backward pass. */
typedef struct {
    uint32_t *queries, *grads;                  /* (panels, pairs of queries, PANEL) */
    uint32_t *keys, *key_pairs, *values;        /* of a block: (d / 2, PANEL), (panels, BLOCK / 2, PANEL), (d / 2, PANEL) */
    uint32_t *weight_pairs, *score_pairs;       /* of a block: (BLOCK / 2 pairs of queries, PANEL) */
    uint32_t *score_rows;                       /* (BLOCK, PANEL / 2) */
    float *grad_q, *grad_k, *grad_v;            /* (t, wide), (BLOCK, wide), (BLOCK, wide) */
    float *means;                               /* (t): of the gradients of a query's weights, by its weights */
} Room;

static long split(uint32_t *at, long t, long d, Room *room) {
    long padded = up_to(t, BLOCK), wide = up_to(d, PANEL), used = 0;
#define TAKE(part, words) (room->part = (void *)(at + used), used += (words))
    TAKE(queries, padded / 2 * wide);
    TAKE(grads, padded / 2 * wide);
    TAKE(keys, d / 2 * PANEL);
    TAKE(key_pairs, BLOCK / 2 * wide);
    TAKE(values, d / 2 * PANEL);
    TAKE(weight_pairs, BLOCK / 2 * PANEL);
    TAKE(score_pairs, BLOCK / 2 * PANEL);
    TAKE(score_rows, BLOCK * PANEL / 2);
    TAKE(grad_q, padded * wide);
    TAKE(grad_k, BLOCK * wide);
    TAKE(grad_v, BLOCK * wide);
    TAKE(means, padded);
#undef TAKE
    return used;
}

/* Weights of a tile of queries and a block of keys, and the gradients of their scores, from the scores and the gradients of
 * the weights. key: the first; a query sees none behind itself. */
INLINE void tile_gradients(const Causal *a, const Room *room, const float *scores, const float *grads, const float *logs,
                           long row, long in_block, long rows, long key, int n) {
    __m512 by = _mm512_set1_ps(a->scaling * LOG2_E);
    for (long i = 0; i < rows; i += 2)
        for (int at = 0; at < n * FLOATS; at += FLOATS) {
            __m256i weights[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, changes[2] = {weights[0], weights[0]};
            for (long j = 0; j < 2 && i + j < rows; j++) {
                long query = row + i + j;
                __mmask16 seen = first(query + 1 - key - at);
                __m512 score = _mm512_loadu_ps(scores + (i + j) * PANEL + at);
                __m512 weight = power_of_two(_mm512_fmsub_ps(score, by, _mm512_set1_ps(logs[query * a->heads])));
                weight = _mm512_maskz_mov_ps(seen, weight);
                __m512 grad = _mm512_sub_ps(_mm512_loadu_ps(grads + (i + j) * PANEL + at), _mm512_set1_ps(room->means[query]));
                weights[j] = rounded(weight);
                changes[j] = rounded(_mm512_maskz_mul_ps(seen, weight, grad));
                _mm256_storeu_si256((__m256i *)((uint16_t *)room->score_rows + (in_block + i + j) * PANEL + at), changes[j]);
            }
            long pair = (in_block + i) / 2 * PANEL + at;
            _mm512_storeu_si512(room->weight_pairs + pair, side_by_side(weights[0], weights[1]));
            _mm512_storeu_si512(room->score_pairs + pair, side_by_side(changes[0], changes[1]));
        }
}

/* What a block of queries gives to its gradients and to those of a block of keys. */
static void block_gradients(const Causal *a, const Room *room, long start, long t, long head, long row, long key) {
    long d = a->d, wide = up_to(d, PANEL), rows = least(BLOCK, t - row), keys = least(BLOCK, t - key);
    long pairs = up_to(t, BLOCK) / 2;
    int diagonal = row == key;
    float scores[ROWS * PANEL] __attribute__((aligned(64))), grads[ROWS * PANEL] __attribute__((aligned(64)));
    for (long i = 0; i < rows; i += ROWS) {
        long count = least(ROWS, rows - i), seen = diagonal ? i + count : keys;
        int n = registers_of(seen);
        by_row((const uint32_t *)row_of(&a->q, start + row + i, head), a->q.token / 2, room->keys, d / 2, scores, PANEL, 0,
               count, n);
        by_row((const uint32_t *)row_of(&a->grad_out, start + row + i, head), a->grad_out.token / 2, room->values, d / 2,
               grads, PANEL, 0, count, n);
        tile_gradients(a, room, scores, grads, a->logs + start * a->heads + head, row + i, i, count, key, n);
        for (long panel = 0; panel < d; panel += PANEL)
            by_row(room->score_rows + i * PANEL / 2, PANEL / 2, room->key_pairs + panel * BLOCK / 2, (seen + 1) / 2,
                   room->grad_q + (row + i) * wide + panel, wide, 1, count, registers_of(d - panel));
    }
    for (long panel = 0; panel < d; panel += PANEL)
        for (long i = 0; i < keys; i += ROWS) {
            long skipped = diagonal ? i / 2 : 0, count = (rows + 1) / 2 - skipped;
            long from = panel * pairs + (row / 2 + skipped) * PANEL;
            int n = registers_of(d - panel);
            by_column(room->weight_pairs + skipped * PANEL + i, room->grads + from, count, room->grad_v + i * wide + panel,
                      wide, 1, least(ROWS, keys - i), n);
            by_column(room->score_pairs + skipped * PANEL + i, room->queries + from, count, room->grad_k + i * wide + panel,
                      wide, 1, least(ROWS, keys - i), n);
        }
}

static void put(const float *from, float by, long d, uint16_t *to) {
    for (long i = 0; i < d; i += FLOATS)
        _mm256_storeu_si256((__m256i *)(to + i), rounded(_mm512_mul_ps(_mm512_loadu_ps(from + i), _mm512_set1_ps(by))));
}

static void backward(const Causal *a, long start, long t, long head, uint32_t *scratch) {
    long d = a->d, kv_head = head / (a->heads / a->kv_heads), wide = up_to(d, PANEL), pairs = up_to(t, BLOCK) / 2;
    Room room;
    split(scratch, t, d, &room);
    paired(row_of(&a->q, start, head), a->q.token, t, d, pairs, room.queries);
    paired(row_of(&a->grad_out, start, head), a->grad_out.token, t, d, pairs, room.grads);
    memset(room.grad_q, 0, t * wide * sizeof *room.grad_q);
    for (long i = 0; i < t; i++) {
        const uint16_t *out = row_of(&a->out, start + i, head), *grad = row_of(&a->grad_out, start + i, head);
        __m512 sum = _mm512_setzero_ps();
        for (long at = 0; at < d; at += FLOATS) sum = _mm512_fmadd_ps(numbers(out + at), numbers(grad + at), sum);
        room.means[i] = _mm512_reduce_add_ps(sum);
    }
    for (long key = 0; key < t; key += BLOCK) {
        long keys = least(BLOCK, t - key);
        const uint16_t *k = row_of(&a->k, start + key, kv_head);
        turned(k, a->k.token, keys, d, room.keys);
        turned(row_of(&a->v, start + key, kv_head), a->v.token, keys, d, room.values);
        paired(k, a->k.token, keys, d, BLOCK / 2, room.key_pairs);
        memset(room.grad_k, 0, keys * wide * sizeof *room.grad_k);
        memset(room.grad_v, 0, keys * wide * sizeof *room.grad_v);
        for (long row = key; row < t; row += BLOCK) block_gradients(a, &room, start, t, head, row, key);
        for (long i = 0; i < keys; i++) {
            long token = start + key + i;
            float *grad_k = room.grad_k + i * wide, *grad_v = room.grad_v + i * wide;
            if (a->shares) {
                float *share = a->shares + (token * a->heads + head) * d;
                memcpy(share, grad_k, d * sizeof *share);
                memcpy(share + a->tokens * a->heads * d, grad_v, d * sizeof *share);
            } else {
                put(grad_k, a->scaling, d, row_of(&a->grad_k, token, head));
                put(grad_v, 1, d, row_of(&a->grad_v, token, head));
            }
        }
    }
    for (long i = 0; i < t; i++) put(room.grad_q + i * wide, a->scaling, d, row_of(&a->grad_q, start + i, head));
}

/* The gradient of a shared head of keys or values, the first of its shares ending as the sum of all. */
static void sum_shares(const Causal *a) {
    long shared = a->heads / a->kv_heads, d = a->d;
#pragma omp parallel for schedule(static) num_threads(a->threads)
    for (long token = 0; token < a->tokens; token++)
        for (long of = 0; of < 2 * a->kv_heads; of++) {
            long is_v = of / a->kv_heads, kv_head = of % a->kv_heads;
            float *sum = a->shares + ((is_v * a->tokens + token) * a->heads + kv_head * shared) * d;
            for (long i = d; i < shared * d; i++) sum[i % d] += sum[i];
            if (is_v) put(sum, 1, d, row_of(&a->grad_v, token, kv_head));
            else put(sum, a->scaling, d, row_of(&a->grad_k, token, kv_head));
        }
}

INLINE int each_head(const Causal *a, void (*pass)(const Causal *, long, long, long, uint32_t *), long words) {
    int failed = 0;
    long longest = a->ends[0] - a->starts[0];
#pragma omp parallel num_threads(a->threads) reduction(| : failed) if (a->tokens * longest * a->heads > WORTH_THREADS)
    {
        uint32_t *scratch = aligned_alloc(64, up_to(words * sizeof *scratch, 64));
        failed = !scratch;
#pragma omp for schedule(dynamic, 1)
        for (long unit = 0; unit < a->examples * a->heads; unit++) {
            long start = a->starts[unit / a->heads], t = a->ends[unit / a->heads] - start;
            if (scratch && t) pass(a, start, t, unit % a->heads, scratch);
        }
        free(scratch);
    }
    return failed;
}

/* Both return 0, or 1 where there is no memory for what a thread needs. */
int causal_forward(const Causal *a) {
    return each_head(a, forward, forward_words(a->ends[0] - a->starts[0], a->d));
}

int causal_backward(const Causal *a) {
    Room room;
    int failed = each_head(a, backward, split(NULL, a->ends[0] - a->starts[0], a->d, &room));
    if (!failed && a->shares) sum_shares(a);
    return failed;
}
