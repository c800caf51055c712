// What surrounds the matrix products of a Transformer in training, forward and backward, row by row in the
// processor's cache: RMSNorm, the gated activation, heads that are normalised and turned, the softmax of what
// sees only what came before.
//
// A row is computed in float32 whatever it is stored as. What rows add up to is added up in parts that do not
// depend on the number of threads.

#include "arithmetic.hpp"
#include "threads.hpp"

#include <algorithm>
#include <vector>

namespace {

constexpr Int PARTS = 64;  // of the rows, each with sums of its own

struct Row {  // numbers in float32, or in bfloat16
    void *numbers;
    Int narrow;

    void read(Int from, Int n, float *to) const {
        if (!narrow) {
            std::memcpy(to, (const float *)numbers + from, sizeof(float) * n);
            return;
        }
        const uint16_t *halves = (const uint16_t *)numbers + from;
        Int i = 0;
        for (; i + LANES <= n; i += LANES) {
            const Bits bits = __builtin_convertvector(load<Halves>(halves + i), Bits) << 16;
            std::memcpy(to + i, &bits, sizeof bits);
        }
        for (; i < n; i++) to[i] = from_bf16(halves[i]);
    }

    void write(Int to, Int n, const float *from) const {
        if (!narrow) {
            std::memcpy((float *)numbers + to, from, sizeof(float) * n);
            return;
        }
        uint16_t *halves = (uint16_t *)numbers + to;
        Int i = 0;
        for (; i + LANES <= n; i += LANES) {
            const Halves some = to_bf16(load<Vec>(from + i));
            std::memcpy(halves + i, &some, sizeof some);
        }
        for (; i < n; i++) halves[i] = to_bf16(whole(from[i]))[0];
    }
};

// Do `part` for each of PARTS parts of n things.
template <class Do> void in_parts(Int n, Int threads, Do part) {
    on_threads(threads, [&](Int thread) {
        for (Int p = PARTS * thread / threads; p < PARTS * (thread + 1) / threads; p++)
            part(p, n * p / PARTS, n * (p + 1) / PARTS);
    });
}

// x becomes x / rms(x) · weight; returns 1 / rms(x).
float norm(float *x, const float *weight, Int n, float eps) {
    const float inverse = 1 / std::sqrt(dot(x, x, n) / n + eps);
    for (Int i = 0; i < n; i++) x[i] = x[i] * inverse * weight[i];
    return inverse;
}

// The gradient of y becomes that of x; what it is for the weight is added to `sums`.
void norm_backward(const float *x, const float *weight, float inverse, Int n, float *gradient, float *sums) {
    for (Int i = 0; i < n; i++) {
        sums[i] += gradient[i] * x[i] * inverse;
        gradient[i] *= weight[i];
    }
    const float along = dot(gradient, x, n) / n * inverse * inverse;
    for (Int i = 0; i < n; i++) gradient[i] = (gradient[i] - x[i] * along) * inverse;
}

struct Heads {
    Int tokens, length, heads, width;  // tokens of all rows, of a row; heads of a token, numbers of a head
    const float *cos, *sin;            // (tokens or length, width / 2)
    Int angles;                        // how many tokens have angles of their own
    const float *weight;               // (width,) or none
    float eps;

    Int angle(Int token) const { return token % angles * (width / 2); }
    // Where head h of a token lies in (rows, heads, length, width).
    Int apart(Int token, Int h) const { return ((token / length * heads + h) * length + token % length) * width; }
};

}  // namespace

// (rows, n) -> the same; `inverse`, (rows,), is kept for the way back.
extern "C" void rms_norm(Int rows, Int n, const Row *x, const float *weight, double eps, const Row *y,
                         float *inverse, Int threads) {
    in_parts(rows, threads, [&](Int, Int begin, Int end) {
        std::vector<float> row(n);
        for (Int r = begin; r < end; r++) {
            x->read(r * n, n, row.data());
            inverse[r] = norm(row.data(), weight, n, float(eps));
            y->write(r * n, n, row.data());
        }
    });
}

// `sums`, (PARTS, n), zero before, is what the weight's gradient is the sum of.
extern "C" void rms_norm_backward(Int rows, Int n, const Row *x, const float *weight, const float *inverse,
                                  const Row *gradient, const Row *to, float *sums, Int threads) {
    in_parts(rows, threads, [&](Int p, Int begin, Int end) {
        std::vector<float> row(n), own(n);
        for (Int r = begin; r < end; r++) {
            x->read(r * n, n, row.data());
            gradient->read(r * n, n, own.data());
            norm_backward(row.data(), weight, inverse[r], n, own.data(), sums + p * n);
            to->write(r * n, n, own.data());
        }
    });
}

constexpr Int SOME = 1024;  // numbers that are worked on together

// silu(gate) · up, n numbers each.
extern "C" void gated(Int n, const Row *gate, const Row *up, const Row *y, Int threads) {
    in_parts(n, threads, [&](Int, Int begin, Int end) {
        alignas(64) float g[SOME], u[SOME];
        for (Int i = begin; i < end; i += SOME) {
            const Int count = std::min(SOME, end - i);
            gate->read(i, count, g);
            up->read(i, count, u);
            activate(SILU, g, u, count, g);
            y->write(i, count, g);
        }
    });
}

extern "C" void gated_backward(Int n, const Row *gate, const Row *up, const Row *gradient, const Row *to_gate,
                               const Row *to_up, Int threads) {
    in_parts(n, threads, [&](Int, Int begin, Int end) {
        alignas(64) float g[SOME] = {}, u[SOME] = {}, d[SOME] = {};
        for (Int i = begin; i < end; i += SOME) {
            const Int count = std::min(SOME, end - i);
            gate->read(i, count, g);
            up->read(i, count, u);
            gradient->read(i, count, d);
            for (Int j = 0; j < count; j += LANES) {
                const Vec x = load<Vec>(g + j), times = load<Vec>(u + j), back = load<Vec>(d + j);
                const Vec share = 1.f / (exponential(-x) + 1.f), silu = x * share;
                const Vec to_x = back * times * (share + silu * (1.f - share)), to_times = back * silu;
                std::memcpy(g + j, &to_x, sizeof to_x);
                std::memcpy(u + j, &to_times, sizeof to_times);
            }
            to_gate->write(i, count, g);
            to_up->write(i, count, u);
        }
    });
}

// (rows, length, heads, width) -> (rows, heads, length, width), each head normalised, where there is a weight,
// and turned by its token's angles. `inverse`: (tokens, heads).
extern "C" void heads_apart(const Heads *h, const Row *x, const Row *y, float *inverse, Int threads) {
    in_parts(h->tokens, threads, [&](Int, Int begin, Int end) {
        std::vector<float> row(h->width);
        for (Int t = begin; t < end; t++)
            for (Int i = 0; i < h->heads; i++) {
                x->read((t * h->heads + i) * h->width, h->width, row.data());
                if (h->weight) inverse[t * h->heads + i] = norm(row.data(), h->weight, h->width, h->eps);
                turn(row.data(), h->cos + h->angle(t), h->sin + h->angle(t), h->width / 2);
                y->write(h->apart(t, i), h->width, row.data());
            }
    });
}

// `negative`: the sines with the other sign, which turn back.
extern "C" void heads_apart_backward(const Heads *h, const Row *x, const float *inverse, const float *negative,
                                     const Row *gradient, const Row *to, float *sums, Int threads) {
    in_parts(h->tokens, threads, [&](Int p, Int begin, Int end) {
        std::vector<float> row(h->width), own(h->width);
        for (Int t = begin; t < end; t++)
            for (Int i = 0; i < h->heads; i++) {
                const Int at = (t * h->heads + i) * h->width;
                gradient->read(h->apart(t, i), h->width, own.data());
                turn(own.data(), h->cos + h->angle(t), negative + h->angle(t), h->width / 2);
                if (h->weight) {
                    x->read(at, h->width, row.data());
                    norm_backward(row.data(), h->weight, inverse[t * h->heads + i], h->width, own.data(),
                                  sums + p * h->width);
                }
                to->write(at, h->width, own.data());
            }
    });
}

// Scores (…, length, length) become shares: of row i the first i + 1, times `scale`, softened; the others are 0.
extern "C" void causal_softmax(Int rows, Int length, const Row *scores, double scale, const Row *y, Int threads) {
    in_parts(rows, threads, [&](Int, Int begin, Int end) {
        std::vector<float> row(length + LANES);
        for (Int r = begin; r < end; r++) {
            const Int seen = r % length + 1;
            scores->read(r * length, seen, row.data());
            std::fill(row.begin() + seen, row.end(), -INFINITY);
            Vec most = whole(-INFINITY), total = {};
            for (Int i = 0; i < seen; i += LANES) most = larger(most, load<Vec>(&row[i]));
            const float highest = greatest(most);
            for (Int i = 0; i < seen; i += LANES) {
                const Vec e = exponential_share(load<Vec>(&row[i]), highest, float(scale));
                total += e;
                std::memcpy(&row[i], &e, sizeof e);
            }
            const float share = 1 / sum(total);
            for (Int i = 0; i < seen; i++) row[i] *= share;
            std::fill(row.begin() + seen, row.end(), 0.f);
            y->write(r * length, length, row.data());
        }
    });
}

extern "C" void causal_softmax_backward(Int rows, Int length, const Row *y, double scale, const Row *gradient,
                                        const Row *to, Int threads) {
    in_parts(rows, threads, [&](Int, Int begin, Int end) {
        std::vector<float> row(length), own(length);
        for (Int r = begin; r < end; r++) {
            const Int seen = r % length + 1;
            y->read(r * length, seen, row.data());
            gradient->read(r * length, seen, own.data());
            const float along = dot(row.data(), own.data(), seen);
            for (Int i = 0; i < seen; i++) own[i] = (own[i] - along) * row[i] * float(scale);
            std::fill(own.begin() + seen, own.end(), 0.f);
            to->write(r * length, length, own.data());
        }
    });
}
