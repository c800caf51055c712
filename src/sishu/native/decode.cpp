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

struct Group {  // at most TOGETHER neighbouring tokens of one text
    Int row, count;
};

struct Step {
    Int rows, blocks_per_text, threads, answers, groups;
    float *x;                 // (rows, width), embeddings; overwritten
    const float *cos, *sin;   // (rows, head_width / 2) or none
    const Int *seen;          // (rows,): positions up to and with this token
    const Int *text;          // (rows,): which text's token this is
    const Int *blocks;        // (texts, blocks_per_text)
    const Group *group;       // (groups,)
    const Int *wanted;        // (answers,): rows whose logits are wanted
    float *logits;            // (answers, outputs of the head)
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

inline Vec activated(Int kind, Vec v) {
    if (kind == SILU) return v / (exponential(-v) + 1.f);
    if (kind == RELU) return v > 0.f ? v : Vec{};
    if (kind == GELU_TANH)  // (1 + tanh z) / 2 = 1 / (1 + exp(-2 z))
        return v / (exponential((v + v * v * v * .044715f) * -1.59576912f) + 1.f);
    Vec y;
    for (Int j = 0; j < LANES; j++) y[j] = .5f * v[j] * (1 + std::erf(v[j] * .70710678f));
    return y;
}

// Times what comes beside where the network is gated.
void activate(Int kind, const float *x, const float *beside, Int n, float *to) {
    Int i = 0;
    for (; i + LANES <= n; i += LANES) {
        Vec y = activated(kind, load<Vec>(x + i));
        if (beside) y *= load<Vec>(beside + i);
        std::memcpy(to + i, &y, sizeof y);
    }
    for (; i < n; i++) to[i] = activated(kind, whole(x[i]))[0] * (beside ? beside[i] : 1);
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

constexpr Int FEW = 8;  // rows up to which every thread prepares all for itself: shorter than to wait

// Room for what a matrix is multiplied with.
struct Room {
    Numbers wide, narrow;
    Room(Int rows, Int most) : wide(rows * most), narrow(rows * most / 2 + LANES) {}
};

constexpr Int TOGETHER = 8;  // neighbouring tokens of a text that are looked up together at most

// What a thread needs to attend.
struct Attending {
    Int across;
    Numbers scores, queries;
    float share[TOGETHER];
    Attending(Int longest, Int head_width)
        : across((longest + 2 * LANES) / LANES * LANES), scores(TOGETHER * across), queries(TOGETHER * head_width) {}
};

struct Pass {
    const Model &m;
    const Step &s;
    const Int most;  // inputs of any matrix
    Meeting meeting;
    Room common;
    Numbers heads, read;      // queries, keys, values; what attention read
    Numbers inner, active;    // of the network, before and after the activation
    std::vector<std::atomic<Int>> next;  // of each layer, the next head to attend

    Pass(const Model &model, const Step &step)
        : m(model), s(step), most(std::max({m.width, m.hidden, m.heads * m.head_width})),
          meeting(int(step.threads)), common(step.rows > FEW ? step.rows : 0, most),
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
        const Int *blocks = s.blocks + s.text[row] * s.blocks_per_text;
        for (Int at = begin; at < end;) {
            Int within = at % m.block_size, count = std::min(m.block_size - within, end - at);
            each(at - begin, blocks[at / m.block_size] * m.block_size + within, count);
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

    // What the new tokens read of their texts: a head of a few neighbouring tokens of a text at a time, which
    // see the same but for the last positions.
    void attend(const Layer &l, Int layer, Attending &a) {
        Int across = (m.heads + 2 * m.kv_heads) * m.head_width, size = m.head_width, out = m.heads * size;
        for (Int task; (task = next[layer].fetch_add(1)) < s.groups * m.heads;) {
            const Group &group = s.group[task % s.groups];
            Int h = task / s.groups, row = group.row, count = group.count, kv_head = h / (m.heads / m.kv_heads);
            for (Int r = 0; r < count; r++) {
                float *query = &heads[(row + r) * across + h * size];
                ready(l.query_norm, row + r, query);
                std::memcpy(&a.queries[r * size], query, 4 * size);
            }
            Int end = s.seen[row + count - 1], begin = l.window ? std::max(Int(0), s.seen[row] - l.window) : 0;
            Int base = begin / LANES * LANES;  // a position has the same lane whatever else is looked at
            stretches(row, begin, end, [&](Int from, Int slot, Int n) {
                const Fp32 keys{cached(m.keys, layer, kv_head, slot), size};
                const Target to{&a.scores[begin - base + from], a.across, nullptr, false};
                product(keys, 0, n, Rows{a.queries, nullptr, size}, count, to);
            });
            for (Int r = 0; r < count; r++) {
                Int last = s.seen[row + r], first = l.window ? std::max(Int(0), last - l.window) : 0;
                a.share[r] = soften(&a.scores[r * a.across], first - base, last - base, end - base);
            }
            float *y = &read[row * out + h * size];
            const Read from{layer, kv_head, row, begin, end, base};
            Int k = 0;
            for (; k + 4 * LANES <= size; k += 4 * LANES) gather_rows<4>(from, a, count, k, y, out);
            for (; k + LANES <= size; k += LANES) gather_rows<1>(from, a, count, k, y, out);
            for (; k < size; k++)
                for (Int r = 0; r < count; r++) {
                    float sum = 0;
                    stretches(row, begin, end, [&](Int at, Int slot, Int n) {
                        const float *value = cached(m.values, layer, kv_head, slot) + k;
                        const float *score = &a.scores[r * a.across + begin - base + at];
                        for (Int i = 0; i < n; i++) sum = std::fma(score[i], value[i * size], sum);
                    });
                    y[r * out + k] = sum * a.share[r];
                }
        }
    }

    // Scores from … to become exponentials, those around them zero; one over their sum.
    float soften(float *scores, Int from, Int to, Int end) const {
        const Vec none = whole(-INFINITY);
        Vec most = none, total = {};
        for (Int i = 0; i < end; i += LANES) {
            Vec v = load<Vec>(&scores[i]) * (1 / std::sqrt(float(m.head_width)));
            if (i < from || i + LANES > to)
                for (Int j = 0; j < LANES; j++)
                    if (i + j < from || i + j >= to) v[j] = -INFINITY;
            most = v > most ? v : most;
            std::memcpy(&scores[i], &v, sizeof v);
        }
        float highest = -INFINITY;
        for (Int j = 0; j < LANES; j++) highest = std::max(highest, most[j]);
        for (Int i = 0; i < end; i += LANES) {
            Vec v = load<Vec>(&scores[i]);
            v = v == none ? Vec{} : exponential(v - highest);
            std::memcpy(&scores[i], &v, sizeof v);
            total += v;
        }
        return 1 / sum(total);
    }

    struct Read {
        Int layer, kv_head, row, begin, end, base;
    };

    template <int N> void gather_rows(const Read &from, Attending &a, Int count, Int k, float *y, Int out) const {
        Int r = 0;
        for (; r + 4 <= count; r += 4) gather<N, 4>(from, a, r, k, y, out);
        for (; r < count; r++) gather<N, 1>(from, a, r, k, y, out);
    }

    // Values times scores, added up: vectors k … k + N of rows r … r + R.
    template <int N, int R> void gather(const Read &of, Attending &a, Int r, Int k, float *y, Int out) const {
        Vec acc[R][N] = {};
        stretches(of.row, of.begin, of.end, [&](Int from, Int slot, Int n) {
            const float *value = cached(m.values, of.layer, of.kv_head, slot) + k;
            const float *score = &a.scores[r * a.across + of.begin - of.base + from];
            for (Int i = 0; i < n; i++, value += m.head_width)
                for (int part = 0; part < N; part++) {
                    Vec v = load<Vec>(value + part * LANES);
                    for (int row = 0; row < R; row++) acc[row][part] += v * score[row * a.across + i];
                }
        });
        for (int row = 0; row < R; row++)
            for (int part = 0; part < N; part++) {
                acc[row][part] *= a.share[r + row];
                std::memcpy(y + (r + row) * out + k + part * LANES, &acc[row][part], sizeof(Vec));
            }
    }

    // What a matrix is multiplied with, row by row: `make` is given a place for n numbers, and says where they
    // are instead if not there.
    template <class Make> Rows prepared(const Matrix &matrix, Int rows, Int thread, Room &own, Make make) {
        Int n = matrix.inputs, begin = 0, end = rows;
        if (rows > FEW) share(rows, thread, begin, end);
        Room &room = rows > FEW ? common : own;
        Rows x{room.wide, (uint16_t *)(float *)room.narrow, n};
        const bool narrower = !std::is_same<Narrow, Wide>::value && matrix.kind != FP32;
        for (Int r = begin; r < end; r++) {
            const float *row = make(r, &room.wide[r * n]);
            if (narrower) narrow(row, n, (uint16_t *)(float *)room.narrow + r * n);
        }
        if (rows > FEW) meeting.wait();
        return x;
    }

    void run(Int thread) {
        Int rows = s.rows, D = m.width, across = (m.heads + 2 * m.kv_heads) * m.head_width, begin, end;
        Int wide = m.hidden * (m.gated ? 2 : 1);
        Room own(std::min(rows, FEW), most);
        Attending attending(*std::max_element(s.seen, s.seen + rows), m.head_width);
        const Norm *norm;
        auto normalised = [&](Int r, float *to) { return normalise(*norm, s.x + r * D, D, to), to; };
        for (Int layer = 0; layer < m.layers; layer++) {
            const Layer &l = m.layer[layer];
            norm = &l.attention_norm;
            Rows x = prepared(l.joined, rows, thread, own, normalised);
            share(across, thread, begin, end);
            multiply(l.joined, begin, end, x, rows, {heads, across, l.joined.bias, false});
            meeting.wait();
            keep(l, layer, thread);
            meeting.wait();
            attend(l, layer, attending);
            meeting.wait();
            x = prepared(l.output, rows, thread, own, [&](Int r, float *) { return &read[r * l.output.inputs]; });
            x.wide = read;
            share(D, thread, begin, end);
            multiply(l.output, begin, end, x, rows, {s.x, D, l.output.bias, true});
            meeting.wait();
            norm = &l.mlp_norm;
            x = prepared(l.up, rows, thread, own, normalised);
            share(m.hidden, thread, begin, end);
            multiply(l.up, begin, end, x, rows, {inner, wide, l.up.bias, false});
            if (m.gated) multiply(l.up, m.hidden + begin, m.hidden + end, x, rows, {inner, wide, l.up.bias, false});
            for (Int r = 0; r < rows; r++) {
                const float *gate = &inner[r * wide + begin], *beside = m.gated ? gate + m.hidden : nullptr;
                activate(m.activation, gate, beside, end - begin, &active[r * m.hidden + begin]);
            }
            meeting.wait();
            x = prepared(l.down, rows, thread, own, [&](Int r, float *) { return &active[r * m.hidden]; });
            x.wide = active;
            share(D, thread, begin, end);
            multiply(l.down, begin, end, x, rows, {s.x, D, l.down.bias, true});
            meeting.wait();
        }
        if (!s.answers) return;
        auto answer = [&](Int r, float *to) { return normalise(m.norm, s.x + s.wanted[r] * D, D, to), to; };
        Rows x = prepared(m.head, s.answers, thread, own, answer);
        share(m.head.outputs, thread, begin, end);
        multiply(m.head, begin, end, x, s.answers, {s.logits, m.head.outputs, m.head.bias, false});
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

// Whether this is faster than torch also with hundreds of rows: on processors that multiply pairs of bfloat16,
// but not whole tiles, which torch knows how to use.
extern "C" Int many_rows() {
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
    return 1;
#else
    return 0;
#endif
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
