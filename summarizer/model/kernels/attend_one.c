/* softmax(q k^T) v for one new token of each beam, over the keys and values that are kept of its prompt and its answer.
 *
 * Each key and value is read once, from where it is kept, for all beams and all heads that share it; scores are summed and
 * weighed in fp32. Nothing is masked: a slot's keys end where its prompt and its answers end.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
#error "made for processors that have AVX-512"
#endif

#define INLINE static inline __attribute__((always_inline))
#define FLOATS 16 /* of a register; d is a multiple of it */
#define WORTH_THREADS (1 << 16) /* numbers from which on waking another thread costs less than it saves */

typedef struct {
    const float *query;           /* (slots, beams, kv_heads, shared, d), scaled */
    const void *prompts[2];       /* keys and values: (slots, kv_heads, prompt_room, d) */
    const void *answers[2];       /* keys and values: (slots, beams, kv_heads, answer_room, d) */
    const int64_t *prompt_lengths, *answer_lengths; /* (slots) */
    float *mixed;                 /* as query */
    long slots, beams, kv_heads, shared, d, prompt_room, answer_room;
    int in_bf16; /* what is kept; fp32 otherwise */
    int threads;
} Attention;

INLINE __m512 load(const void *kept, long at, int in_bf16) {
    if (!in_bf16) return _mm512_loadu_ps((const float *)kept + at);
    __m256i halves = _mm256_loadu_si256((const __m256i *)((const uint16_t *)kept + at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* scores[query][t] = query . key t, for `count` keys from `at` and `asking` queries, `apart` numbers from each other. */
INLINE void score(const Attention *a, const void *keys, long at, long count, const float *query, long asking, long apart,
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
INLINE void mix(const Attention *a, const void *values, long at, long count, const float *weights, long room,
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
    float largest = -INFINITY, sum = 0;
    for (long t = 0; t < count; t++) largest = fmaxf(largest, scores[t]);
    for (long t = 0; t < count; t++) sum += scores[t] = expf(scores[t] - largest);
    for (long t = 0; t < count; t++) scores[t] /= sum;
}

/* One head of keys and values of one slot, for all that ask it. */
INLINE void head(const Attention *a, long slot, long kv_head, float *scores, int in_bf16) {
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
int attend_one(const Attention *a) {
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
