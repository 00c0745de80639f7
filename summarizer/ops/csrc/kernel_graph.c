/* A kernel graph: its calls one after the other, without Python between them. */

typedef struct {
    /* A kernel takes fewer: what it does not take lies in registers that it does not read. */
    int (*kernel)(const void *, const void *, const void *, const void *);
    const void *arguments[4];
} Call;

/* Returns 0, or one more than the place of the call that failed. */
int run_calls(const Call *calls, long count) {
    for (long i = 0; i < count; i++) {
        const Call *c = calls + i;
        if (c->kernel(c->arguments[0], c->arguments[1], c->arguments[2], c->arguments[3])) return i + 1;
    }
    return 0;
}
