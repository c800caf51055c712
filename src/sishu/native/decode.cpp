// One pass of a decoder over the next tokens of a few texts, by several threads.
//
// To write a token every weight is read once, so the pass lasts as long as reading them, if nothing else
// takes time: the threads are started once and wait for each other by looking, not by sleeping, and smaller
// weights are widened in registers.

#include "products.hpp"

#include <atomic>
#include <cmath>
#include <thread>

// What follows is laid out as sishu.native.decode has it.

struct Norm {  // RMSNorm, or LayerNorm where there is a bias
    const float *weight, *bias;
    double eps;
};

struct Layer {
    Norm attention_norm, query_norm, key_norm, mlp_norm;  // those of queries and keys may be none
    Matrix joined, output, up, down;                      // queries, keys, values; gate and up where gated
    Int window;                                           // positions seen, or 0 for all
};

enum Activation : Int { SILU, GELU, GELU_TANH, RELU };

struct Model {
    Int layers, width, heads, kv_heads, head_width, hidden, gated, activation;
    const Layer *layer;
    Norm norm;
    Matrix head;
    float *keys, *values;  // (layers, kv_heads, slots, head_width)
    Int slots, block_size;
};

struct Step {
    Int rows, blocks_per_row, threads;
    float *x;                 // (rows, width), embeddings; overwritten
    const float *cos, *sin;   // (rows, head_width / 2) or none
    const Int *seen;          // (rows,): positions up to and with this token
    const Int *blocks;        // (rows, blocks_per_row)
    float *logits;            // (rows, outputs of the head)
};

namespace {

inline Vec exponential(Vec x) {  // within 2e-7 of exp(x), relatively
    x = x < -87.f ? whole(-87.f) : x;
    x = x > 88.f ? whole(88.f) : x;
    Vec scaled = x * 1.44269504f;
    Whole n = __builtin_convertvector(scaled + (scaled < 0.f ? whole(-.5f) : whole(.5f)), Whole);
    Vec times = __builtin_convertvector(n, Vec);
    Vec r = x - times * .693359375f + times * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    Whole power = (n + 127) << 23;
    return p * load<Vec>(&power);
}

float dot(const float *a, const float *b, Int n) {
    Vec acc = {};
    Int i = 0;
    for (; i + LANES <= n; i += LANES) acc += load<Vec>(a + i) * load<Vec>(b + i);
    float y = sum(acc);
    for (; i < n; i++) y += a[i] * b[i];
    return y;
}

void normalise(const Norm &norm, const float *x, Int n, float *y) {
    float mean = 0;
    if (norm.bias) {
        for (Int i = 0; i < n; i++) mean += x[i];
        mean /= n;
    }
    for (Int i = 0; i < n; i++) y[i] = x[i] - mean;
    float factor = 1 / std::sqrt(dot(y, y, n) / n + float(norm.eps));
    for (Int i = 0; i < n; i++) y[i] = y[i] * factor * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.f);
}

void turn(float *x, const float *cos, const float *sin, Int half) {
    for (Int i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        x[i] = first * cos[i] - second * sin[i];
        x[i + half] = second * cos[i] + first * sin[i];
    }
}

// Times what comes beside where the network is gated.
void activate(Int kind, const float *x, const float *beside, Int n, float *to) {
    for (Int i = 0; i < n; i += LANES) {
        Int count = std::min(LANES, n - i);
        Vec v = {}, y;
        std::memcpy(&v, x + i, 4 * count);
        if (kind == SILU) {
            y = v / (exponential(-v) + 1.f);
        } else if (kind == GELU_TANH) {  // (1 + tanh z) / 2 = 1 / (1 + exp(-2 z))
            Vec z = (v + v * v * v * .044715f) * -1.59576912f;
            y = v / (exponential(z) + 1.f);
        } else if (kind == RELU) {
            y = v > 0.f ? v : Vec{};
        } else {
            for (Int j = 0; j < LANES; j++) y[j] = .5f * v[j] * (1 + std::erf(v[j] * .70710678f));
        }
        if (beside) {
            Vec other = {};
            std::memcpy(&other, beside + i, 4 * count);
            y *= other;
        }
        std::memcpy(to + i, &y, 4 * count);
    }
}

class Meeting {  // where all threads wait for the last
    std::atomic<int> here{0}, times{0};
    const int all;

  public:
    explicit Meeting(int threads) : all(threads) {}
    void wait() {
        int before = times.load(std::memory_order_relaxed);
        if (here.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
            here.store(0, std::memory_order_relaxed);
            times.store(before + 1, std::memory_order_release);
            return;
        }
        for (int looks = 0; times.load(std::memory_order_acquire) == before; looks++) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
            if (looks > 4096) std::this_thread::yield();  // somebody else has the last one's core
        }
    }
};

struct Pass {
    const Model &m;
    const Step &s;
    Meeting meeting;
    Numbers heads, read;      // queries, keys, values; what attention read
    Numbers inner, active;    // of the network, before and after the activation
    std::vector<std::atomic<Int>> next;  // of each layer, the next head to attend

    Pass(const Model &model, const Step &step)
        : m(model), s(step), meeting(int(step.threads)),
          heads(step.rows * (model.heads + 2 * model.kv_heads) * model.head_width),
          read(step.rows * model.heads * model.head_width),
          inner(step.rows * model.hidden * (model.gated ? 2 : 1)), active(step.rows * model.hidden),
          next(model.layers) {}

    // A thread's share of n things, a multiple of what is cheap to do together.
    void share(Int n, Int thread, Int &begin, Int &end) const {
        Int each = ((n + s.threads - 1) / s.threads + 3) / 4 * 4;
        begin = std::min(n, thread * each), end = std::min(n, begin + each);
    }

    float *cached(float *pool, Int layer, Int kv_head, Int slot) const {
        return pool + ((layer * m.kv_heads + kv_head) * m.slots + slot) * m.head_width;
    }

    // Positions begin … end of a row's text, block by block: how many came before, the first slot, how many.
    template <class Do> void stretches(Int row, Int begin, Int end, Do each) const {
        for (Int at = begin; at < end;) {
            Int within = at % m.block_size, count = std::min(m.block_size - within, end - at);
            each(at - begin, s.blocks[row * s.blocks_per_row + at / m.block_size] * m.block_size + within, count);
            at += count;
        }
    }

    void ready(const Norm &norm, Int row, float *head) const {
        if (norm.weight) normalise(norm, head, m.head_width, head);
        Int half = m.head_width / 2;
        if (s.cos) turn(head, s.cos + row * half, s.sin + row * half, half);
    }

    void keep(const Layer &l, Int layer, Int thread) {  // keys and values of the new tokens
        Int across = (m.heads + 2 * m.kv_heads) * m.head_width, size = m.head_width;
        for (Int task = thread; task < s.rows * m.kv_heads; task += s.threads) {
            Int row = task / m.kv_heads, g = task % m.kv_heads, at = s.seen[row] - 1;
            float *key = &heads[row * across + (m.heads + g) * size];
            ready(l.key_norm, row, key);
            stretches(row, at, at + 1, [&](Int, Int slot, Int) {
                std::memcpy(cached(m.keys, layer, g, slot), key, 4 * size);
                std::memcpy(cached(m.values, layer, g, slot), key + m.kv_heads * size, 4 * size);
            });
        }
    }

    void attend(const Layer &l, Int layer, float *scores) {
        Int across = (m.heads + 2 * m.kv_heads) * m.head_width, size = m.head_width;
        for (Int task; (task = next[layer].fetch_add(1)) < s.rows * m.heads;) {
            Int row = task / m.heads, h = task % m.heads, g = h / (m.heads / m.kv_heads);
            float *query = &heads[row * across + h * size], *y = &read[(row * m.heads + h) * size];
            ready(l.query_norm, row, query);
            Int end = s.seen[row], begin = l.window ? std::max(Int(0), end - l.window) : 0, n = end - begin;
            Int padded = (n + LANES - 1) / LANES * LANES;
            float most = -INFINITY, factor = 1 / std::sqrt(float(size));
            stretches(row, begin, end, [&](Int from, Int slot, Int count) {
                const Fp32 keys{cached(m.keys, layer, g, slot), size};
                product(keys, 0, count, Rows{query, nullptr, size}, 1, Target{scores + from, 0, nullptr, false});
            });
            for (Int i = 0; i < n; i++) most = std::max(most, scores[i] *= factor);
            for (Int i = n; i < padded; i++) scores[i] = -INFINITY;
            Vec total = {};
            for (Int i = 0; i < padded; i += LANES) {
                Vec share = exponential(load<Vec>(&scores[i]) - most);
                std::memcpy(&scores[i], &share, sizeof share);
            }
            for (Int i = n; i < padded; i++) scores[i] = 0;
            for (Int i = 0; i < padded; i += LANES) total += load<Vec>(&scores[i]);
            float share = 1 / sum(total);
            Int k = 0;
            for (; k + 4 * LANES <= size; k += 4 * LANES) gather<4>(layer, g, row, begin, end, scores, share, k, y);
            for (; k + LANES <= size; k += LANES) gather<1>(layer, g, row, begin, end, scores, share, k, y);
            for (; k < size; k++) {
                y[k] = 0;
                stretches(row, begin, end, [&](Int from, Int slot, Int count) {
                    const float *value = cached(m.values, layer, g, slot) + k;
                    for (Int i = 0; i < count; i++) y[k] += scores[from + i] * value[i * size];
                });
                y[k] *= share;
            }
        }
    }

    // Values times scores, added up: numbers k … of a head.
    template <int N>
    void gather(Int layer, Int g, Int row, Int begin, Int end, const float *scores, float share, Int k, float *y) {
        Vec acc[N] = {};
        stretches(row, begin, end, [&](Int from, Int slot, Int count) {
            const float *value = cached(m.values, layer, g, slot) + k;
            for (Int i = 0; i < count; i++, value += m.head_width)
                for (int part = 0; part < N; part++) acc[part] += load<Vec>(value + part * LANES) * scores[from + i];
        });
        for (int part = 0; part < N; part++) {
            acc[part] *= share;
            std::memcpy(y + k + part * LANES, &acc[part], sizeof(Vec));
        }
    }

    void run(Int thread) {
        Int rows = s.rows, D = m.width, begin, end;
        Int across = (m.heads + 2 * m.kv_heads) * m.head_width, wide = m.hidden * (m.gated ? 2 : 1);
        Numbers normed(rows * D), space(rows * std::max({D, m.hidden, m.heads * m.head_width}) / 2 + LANES);
        Int longest = *std::max_element(s.seen, s.seen + rows);
        Numbers scores(longest + LANES);
        auto normalised = [&](const Norm &norm) {  // by every thread for itself: shorter than to wait
            for (Int r = 0; r < rows; r++) normalise(norm, s.x + r * D, D, &normed[r * D]);
            return (float *)normed;
        };
        for (Int layer = 0; layer < m.layers; layer++) {
            const Layer &l = m.layer[layer];
            share(across, thread, begin, end);
            multiply(l.joined, begin, end, normalised(l.attention_norm), rows, space, heads, across);
            meeting.wait();
            keep(l, layer, thread);
            meeting.wait();
            attend(l, layer, scores);
            meeting.wait();
            share(D, thread, begin, end);
            multiply(l.output, begin, end, read, rows, space, s.x, D, true);
            meeting.wait();
            const float *x = normalised(l.mlp_norm);
            share(m.hidden, thread, begin, end);
            multiply(l.up, begin, end, x, rows, space, inner, wide);
            if (m.gated) multiply(l.up, m.hidden + begin, m.hidden + end, x, rows, space, inner, wide);
            for (Int r = 0; r < rows; r++) {
                const float *gate = &inner[r * wide + begin], *beside = m.gated ? gate + m.hidden : nullptr;
                activate(m.activation, gate, beside, end - begin, &active[r * m.hidden + begin]);
            }
            meeting.wait();
            share(D, thread, begin, end);
            multiply(l.down, begin, end, active, rows, space, s.x, D, true);
            meeting.wait();
        }
        const float *x = normalised(m.norm);
        share(m.head.outputs, thread, begin, end);
        multiply(m.head, begin, end, x, rows, space, s.logits, m.head.outputs);
    }
};

}  // namespace

extern "C" void decode_step(const Model *model, const Step *step) {
    Pass pass(*model, *step);
    std::vector<std::thread> others;
    for (Int thread = 1; thread < step->threads; thread++)
        others.emplace_back([&pass, thread] { pass.run(thread); });
    pass.run(0);
    for (auto &other : others) other.join();
}

// A matrix of 4 bits in bfloat16, (outputs, inputs), for products of many rows.
extern "C" void unpack(const Matrix *matrix, uint16_t *to, Int threads) {
    const Int4 w(*matrix);
    auto some = [&](Int thread) {
        Int n = matrix->inputs, end = matrix->outputs * (thread + 1) / threads;
        for (Int o = matrix->outputs * thread / threads; o < end; o++)
            for (Int i = 0; i < n; i += 2 * LANES) {
                Wide part = w.wide(o, i);
                Halves halves[] = {to_bf16(part.a), to_bf16(part.b)};
                std::memcpy(to + o * n + i, halves, sizeof halves);
            }
    };
    std::vector<std::thread> others;
    for (Int thread = 1; thread < threads; thread++) others.emplace_back(some, thread);
    some(0);
    for (auto &other : others) other.join();
}
