// Logits turned into their cross-entropy and its gradient, in place, row by row in the processor's cache.

#include "arithmetic.hpp"
#include "threads.hpp"

namespace {

// Rows of logits in float32 or bfloat16. Behind the last logit of a row a vector holds minus infinity.
template <class Number> struct Logits {
    Number *const row;
    const Int count;

    inline Vec take(Int i) const {
        if (i + LANES <= count) return wide(row + i);
        Number last[LANES];
        const float none = -INFINITY;
        for (Int j = 0; j < LANES; j++) {
            if (i + j < count)
                last[j] = row[i + j];
            else
                std::memcpy(&last[j], (const char *)&none + sizeof none - sizeof(Number), sizeof(Number));
        }
        return wide(last);
    }

    inline void put(Int i, Vec v) const {
        Number numbers[LANES];
        narrow(v, numbers);
        std::memcpy(row + i, numbers, sizeof(Number) * std::min(LANES, count - i));
    }

  private:
    static inline Vec wide(const float *from) { return load<Vec>(from); }
    static inline Vec wide(const uint16_t *from) {
        const Bits bits = __builtin_convertvector(load<Halves>(from), Bits) << 16;
        return load<Vec>(&bits);
    }
    static inline void narrow(Vec v, float *to) { std::memcpy(to, &v, sizeof v); }
    static inline void narrow(Vec v, uint16_t *to) {
        const Halves halves = to_bf16(v);
        std::memcpy(to, &halves, sizeof halves);
    }
};

template <class Number> float one_row(const Logits<Number> &logits, Int target, bool gradient) {
    const Vec wanted = logits.take(target / LANES * LANES);
    Vec most = whole(-INFINITY), total = {};
    for (Int i = 0; i < logits.count; i += LANES) {
        const Vec v = logits.take(i);
        most = v > most ? v : most;
    }
    const float highest = greatest(most);
    for (Int i = 0; i < logits.count; i += LANES) {
        const Vec v = logits.take(i);
        total += v == -INFINITY ? Vec{} : exponential(v - highest);
    }
    const float sum_of = sum(total), log_sum = std::log(sum_of), share = 1 / sum_of;
    if (gradient)
        for (Int i = 0; i < logits.count; i += LANES) {
            const Vec v = logits.take(i);
            Vec p = v == -INFINITY ? Vec{} : exponential(v - highest) * share;
            if (i == target / LANES * LANES) p[target % LANES] -= 1;
            logits.put(i, p);
        }
    return log_sum + highest - wanted[target % LANES];
}

template <class Number>
void some_rows(Number *logits, Int vocabulary, Int begin, Int end, const Int *targets, float *losses, bool gradient) {
    for (Int row = begin; row < end; row++)
        losses[row] = one_row(Logits<Number>{logits + row * vocabulary, vocabulary}, targets[row], gradient);
}

}  // namespace

// Losses in nats of rows of logits (rows, vocabulary), which become softmax minus one-hot where `gradient` is
// asked for; `narrow`: the logits are in bfloat16.
extern "C" void cross_entropy(void *logits, Int narrow, Int rows, Int vocabulary, const Int *targets, float *losses,
                              Int gradient, Int threads) {
    on_threads(threads, [=](Int thread) {
        const Int begin = rows * thread / threads, end = rows * (thread + 1) / threads;
        if (narrow)
            some_rows((uint16_t *)logits, vocabulary, begin, end, targets, losses, gradient);
        else
            some_rows((float *)logits, vocabulary, begin, end, targets, losses, gradient);
    });
}
