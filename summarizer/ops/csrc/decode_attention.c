/* softmax(q k^T) v for one new token of each beam, over the keys and values that are kept of its prompt and its answer.
 *
 * Each key and value is read once, from where it is kept, for all beams and all heads that share it; scores are summed and
 * weighed in fp32. Nothing is masked: a slot's keys end where its prompt and its answers end.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

/* d is a multiple of FLOATS. */
#define WORTH_THREADS (1 << 16) /* numbers from which on waking another thread costs less than it saves */

typedef struct {
    float *query;             /* (slots, beams, kv_heads, shared, d), rotated and scaled in place */
    float *key;               /* (slots, beams, kv_heads, d), rotated in place */
    const float *value;       /* as key */
    void *prompts[2];         /* keys and values: (slots, kv_heads, prompt_room, d) */
    void *answers[2];         /* keys and values: (slots, beams, kv_heads, answer_room, d); the last is the new token's */
    const int64_t *prompt_lengths, *answer_lengths; /* (slots); an answer's counts the new token */
    float *mixed;             /* as query */
    const float *cos, *sin;   /* (slots, beams, half): of the angles by which pairs of a head turn */
    long slots, beams, kv_heads, shared, d, prompt_room, answer_room;
    long half;                /* pairs of a head that turn; 0 where positions do not */
    float scale;              /* of the query */
    int interleaved;          /* pairs are 2i, 2i + 1; else i, half + i */
    int in_bf16;              /* what is cached; fp32 otherwise */
    int threads;
} NewToken;

INLINE __m512 load(const void *kept, long at, int in_bf16) {
    if (!in_bf16) return _mm512_loadu_ps((const float *)kept + at);
    return widened(_mm256_loadu_si256((const __m256i *)((const uint16_t *)kept + at)));
}

/* scores[query][t] = query . key t, for `count` keys from `at` and `asking` queries, `apart` numbers from each other. */
INLINE void score(const NewToken *a, const void *keys, long at, long count, const float *query, long asking, long apart,
                  float *scores, long room, int in_bf16) {
    for (long t = 0; t < count; t++, at += a->d)
        for (long q = 0; q < asking; q++) {
            __m512 even = _mm512_setzero_ps(), odd = even;
            const float *own = query + q * apart;
            long i = 0;
            for (; i + 2 * FLOATS <= a->d; i += 2 * FLOATS) {
                even = _mm512_fmadd_ps(load(keys, at + i, in_bf16), _mm512_loadu_ps(own + i), even);
                odd = _mm512_fmadd_ps(load(keys, at + i + FLOATS, in_bf16), _mm512_loadu_ps(own + i + FLOATS), odd);
            }
            if (i < a->d) even = _mm512_fmadd_ps(load(keys, at + i, in_bf16), _mm512_loadu_ps(own + i), even);
            scores[q * room + t] = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
        }
}

/* mixed[query] += weights[query][t] value t. */
INLINE void mix(const NewToken *a, const void *values, long at, long count, const float *weights, long room,
                long asking, float *mixed, long apart, int in_bf16) {
    for (long t = 0; t < count; t++, at += a->d)
        for (long q = 0; q < asking; q++) {
            __m512 weight = _mm512_set1_ps(weights[q * room + t]);
            float *own = mixed + q * apart;
            for (long i = 0; i < a->d; i += FLOATS)
                _mm512_storeu_ps(own + i, _mm512_fmadd_ps(weight, load(values, at + i, in_bf16), _mm512_loadu_ps(own + i)));
        }
}

static void softmax(float *scores, long count) {
    __m512 most = _mm512_set1_ps(-INFINITY), sums = _mm512_setzero_ps();
    for (long t = 0; t < count; t += FLOATS)
        most = _mm512_mask_max_ps(most, first(count - t), most, _mm512_maskz_loadu_ps(first(count - t), scores + t));
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (long t = 0; t < count; t += FLOATS) {
        __mmask16 there = first(count - t);
        __m512 chance = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(there, scores + t), most));
        sums = _mm512_mask_add_ps(sums, there, sums, chance);
        _mm512_mask_storeu_ps(scores + t, there, chance);
    }
    __m512 share = _mm512_set1_ps(1 / _mm512_reduce_add_ps(sums));
    for (long t = 0; t < count; t += FLOATS) {
        __mmask16 there = first(count - t);
        _mm512_mask_storeu_ps(scores + t, there, _mm512_mul_ps(_mm512_maskz_loadu_ps(there, scores + t), share));
    }
}

/* One head of keys and values of one slot, for all that ask it. */
INLINE void head(const NewToken *a, long slot, long kv_head, float *scores, int in_bf16) {
    long prompt = a->prompt_lengths[slot], answer = a->answer_lengths[slot], room = prompt + answer;
    long of_beam = a->kv_heads * a->shared * a->d;
    long first = slot * a->beams * of_beam + kv_head * a->shared * a->d;
    long kept = (slot * a->kv_heads + kv_head) * a->prompt_room * a->d;
    for (long s = 0; s < a->shared; s++)
        score(a, a->prompts[0], kept, prompt, a->query + first + s * a->d, a->beams, of_beam,
              scores + s * a->beams * room, room, in_bf16);
    for (long beam = 0; beam < a->beams; beam++) {
        long own = ((slot * a->beams + beam) * a->kv_heads + kv_head) * a->answer_room * a->d;
        for (long s = 0; s < a->shared; s++)
            score(a, a->answers[0], own, answer, a->query + first + beam * of_beam + s * a->d, 1, 0,
                  scores + (s * a->beams + beam) * room + prompt, room, in_bf16);
    }
    for (long asks = 0; asks < a->shared * a->beams; asks++) softmax(scores + asks * room, room);
    for (long beam = 0; beam < a->beams; beam++)
        for (long i = 0; i < a->shared * a->d; i++) a->mixed[first + beam * of_beam + i] = 0;
    for (long s = 0; s < a->shared; s++)
        mix(a, a->prompts[1], kept, prompt, scores + s * a->beams * room, room, a->beams, a->mixed + first + s * a->d,
            of_beam, in_bf16);
    for (long beam = 0; beam < a->beams; beam++) {
        long own = ((slot * a->beams + beam) * a->kv_heads + kv_head) * a->answer_room * a->d;
        for (long s = 0; s < a->shared; s++)
            mix(a, a->answers[1], own, answer, scores + (s * a->beams + beam) * room + prompt, room, 1,
                a->mixed + first + beam * of_beam + s * a->d, 0, in_bf16);
    }
}

/* Returns 0, or 1 where there is no memory for the scores. */
static int attend_cached(const NewToken *a) {
    int failed = 0;
    long keys = 0;
    for (long slot = 0; slot < a->slots; slot++) keys += a->prompt_lengths[slot] + a->beams * a->answer_lengths[slot];
#pragma omp parallel for schedule(dynamic, 1) num_threads(a->threads) reduction(| : failed) \
    if (keys * a->kv_heads * a->d > WORTH_THREADS)
    for (long unit = 0; unit < a->slots * a->kv_heads; unit++) {
        long slot = unit / a->kv_heads, room = a->prompt_lengths[slot] + a->answer_lengths[slot];
        float *scores = malloc(a->shared * a->beams * room * sizeof *scores);
        if (!scores) {
            failed = 1;
            continue;
        }
        if (a->in_bf16) head(a, slot, unit % a->kv_heads, scores, 1);
        else head(a, slot, unit % a->kv_heads, scores, 0);
        free(scores);
    }
    return failed;
}

/* ---- what comes before it: the new key and value take their place, and positions turn ---- */

static void turn(const NewToken *t, float *head, long row) {
    const float *cos = t->cos + row * t->half, *sin = t->sin + row * t->half;
    long step = t->interleaved ? 2 : 1, apart = t->interleaved ? 1 : t->half;
    for (long i = 0; i < t->half; i++) {
        float *one = head + i * step, *other = one + apart;
        float turned = *one * cos[i] - *other * sin[i];
        *other = *other * cos[i] + *one * sin[i];
        *one = turned;
    }
}

/* `count` numbers to where they are kept; bf16 as torch rounds, to the nearest, a tie to the even one. */
static void keep(const float *numbers, void *kept, long at, long count, int in_bf16) {
    if (!in_bf16) {
        memcpy((float *)kept + at, numbers, count * sizeof *numbers);
        return;
    }
    for (long i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, numbers + i, sizeof bits);
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        ((uint16_t *)kept)[at + i] = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
    }
}

/* Returns 0, or 1 where there is no memory for the scores. */
int attend(const NewToken *a) {
    for (long row = 0; row < a->slots * a->beams; row++) {
        long place = a->answer_lengths[row / a->beams] - 1;
        for (long head = 0; head < a->kv_heads; head++) {
            long own = (row * a->kv_heads + head) * a->d;
            long at = ((row * a->kv_heads + head) * a->answer_room + place) * a->d;
            turn(a, a->key + own, row);
            keep(a->key + own, a->answers[0], at, a->d, a->in_bf16);
            keep(a->value + own, a->answers[1], at, a->d, a->in_bf16);
        }
        float *query = a->query + row * a->kv_heads * a->shared * a->d;
        for (long head = 0; head < a->kv_heads * a->shared; head++) turn(a, query + head * a->d, row);
        for (long i = 0; i < a->kv_heads * a->shared * a->d; i++) query[i] *= a->scale;
    }
    return attend_cached(a);
}
