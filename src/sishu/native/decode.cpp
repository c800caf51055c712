// One pass of a decoder over the next tokens of a few texts, by several threads.
//
// To write a token every weight is read once, so the pass lasts as long as reading them, if nothing else
// takes time: the threads are started once and wait for each other by looking, not by sleeping, and smaller
// weights are widened in registers. Reading a prompt lasts as long as multiplying (many_rows.hpp).

#include "attention.hpp"
#include "many_rows.hpp"
#include "threads.hpp"

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace {

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

constexpr Int STAGES = 5;
constexpr Int FEW = 8;  // rows up to which every thread prepares all for itself: shorter than to wait

// Room for what a matrix is multiplied with.
struct Room {
    Numbers wide, narrow;
    Room(Int rows, Int most) : wide(rows * most), narrow(rows * most / 2 + LANES) {}
};

struct Pass {
    const Model &m;
    const Step &s;
    const Int most;  // inputs of any matrix
    Meeting meeting;
    Room common;
    Numbers heads, read, active;          // queries, keys, values; what attention read; inside the network
    const Int across;                     // queries, keys and values of a row
    std::vector<std::atomic<Int>> taken;  // of what threads share out as they go, STAGES a layer and the head
    const bool fewer;                     // whether the last layer, beyond keys and values, is for wanted rows alone

    Pass(const Model &model, const Step &step)
        : m(model), s(step), most(std::max({m.width, m.hidden, m.heads * m.head_width})),
          meeting(int(step.threads)), common(step.rows > FEW ? step.rows : 0, most),
          heads(step.rows * (model.heads + 2 * model.kv_heads) * model.head_width),
          read(step.rows * model.heads * model.head_width), active(step.rows * model.hidden),
          across((model.heads + 2 * model.kv_heads) * model.head_width), taken(model.layers * STAGES + 1),
          fewer(step.answers < step.rows &&
                std::adjacent_find(step.wanted, step.wanted + step.answers, std::greater_equal<Int>()) ==
                    step.wanted + step.answers) {}

    // A thread's share of n things, a multiple of what is cheap to do together.
    void share(Int n, Int thread, Int &begin, Int &end) const {
        Int each = ((n + s.threads - 1) / s.threads + 3) / 4 * 4;
        begin = std::min(n, thread * each), end = std::min(n, begin + each);
    }

    // Room for outputs of the network, before the activation, that a thread computes at once at most.
    Int inner_room(Int rows) const { return rows * (rows > MANY ? BLOCK : m.hidden / s.threads + 4); }

    // Each thread's part of n outputs for rows: of few rows the same ones always, of many what is left.
    template <class Do> void divide(Int n, Int rows, Int thread, std::atomic<Int> &next, Do part) {
        Int begin, end;
        if (rows > MANY) {
            const Int each = ceiling(ceiling(n, ceiling(n, s.threads * BLOCK) * s.threads), LANES) * LANES;
            while ((begin = next.fetch_add(each)) < n) part(begin, std::min(n, begin + each));
        } else {
            share(n, thread, begin, end);
            if (begin < end) part(begin, end);
        }
    }

    void keep(const Layer &l, Int layer, Int thread) {  // keys and values of the new tokens
        Int size = m.head_width;
        for (Int task = thread; task < s.rows * m.kv_heads; task += s.threads) {
            Int row = task / m.kv_heads, g = task % m.kv_heads, at = s.seen[row] - 1;
            float *key = &heads[row * across + (m.heads + g) * size];
            make_ready(l.key_norm, s, row, size, key);
            Int block = s.blocks[s.text[row] * s.blocks_per_text + at / m.block_size];
            Int slot = block * m.block_size + at % m.block_size;
            Int place = ((layer * m.kv_heads + g) * m.slots + slot) * size;
            std::memcpy(m.keys + place, key, sizeof(float) * size);
            std::memcpy(m.values + place, key + m.kv_heads * size, sizeof(float) * size);
        }
    }

    // The wanted rows become the first ones.
    void leave_wanted() {
        const Int n = m.heads * m.head_width;
        for (Int i = 0; i < s.answers; i++) {
            const Int row = s.wanted[i];
            std::memmove(s.x + i * m.width, s.x + row * m.width, sizeof(float) * m.width);
            std::memmove(read + i * n, read + row * n, sizeof(float) * n);
        }
    }

    // What a matrix is multiplied with, row by row: `make` is given a place for n numbers, and says where they
    // are instead if not there.
    template <class Make> Rows prepared(const Matrix &matrix, Int rows, Int thread, Room &own, Make make) {
        Int n = matrix.inputs, begin = 0, end = rows;
        if (rows > FEW) share(rows, thread, begin, end);
        Room &room = rows > FEW ? common : own;
        Rows x{room.wide, (uint16_t *)(float *)room.narrow, n};
        for (Int r = begin; r < end; r++) {
            const float *row = make(r, &room.wide[r * n]);
            for (Int i = 0; PAIRS && matrix.kind != FP32 && i + PART <= n; i += PART) {
                const Narrow part = Narrow::rounded(row + i);
                std::memcpy((uint16_t *)(float *)room.narrow + r * n + i, &part, PART * sizeof(uint16_t));
            }
        }
        if (rows > FEW) meeting.wait();
        return x;
    }

    void run(Int thread) {
        if (PAIRS && m.layer[0].joined.kind != FP32)
            run<Narrow>(thread);
        else
            run<Wide>(thread);
    }

    template <class Part> void run(Int thread) {
        Int rows = s.rows;
        const Int D = m.width;
        Room own(std::min(rows, FEW), most);
        const Numbers weights = room_for_weights(rows > MANY ? most : 0);
        const Int room = std::max(inner_room(rows), inner_room(s.answers));
        const Numbers inner(room), beside(m.gated ? room : 0);
        Attention<Part> attend(m, s);
        const Norm *norm;
        auto normalised = [&](Int r, float *to) { return normalise(*norm, s.x + r * D, D, to), to; };
        for (Int layer = 0; layer < m.layers; layer++) {
            const Layer &l = m.layer[layer];
            norm = &l.attention_norm;
            Rows x = prepared(l.joined, rows, thread, own, normalised);
            divide(across, rows, thread, taken[layer * STAGES], [&](Int begin, Int end) {
                multiply(l.joined, begin, end, x, rows, {heads, 0, across, l.joined.bias, false}, weights);
            });
            meeting.wait();
            keep(l, layer, thread);
            meeting.wait();
            const bool last = fewer && layer == m.layers - 1;
            attend(l, layer, heads, read, taken[layer * STAGES + 1], last);
            meeting.wait();
            if (last) {
                if (thread == 0) leave_wanted();
                meeting.wait();
                rows = s.answers;
            }
            x = prepared(l.output, rows, thread, own, [&](Int r, float *) { return &read[r * l.output.inputs]; });
            x.wide = read;
            divide(D, rows, thread, taken[layer * STAGES + 2], [&](Int begin, Int end) {
                multiply(l.output, begin, end, x, rows, {s.x, 0, D, l.output.bias, true}, weights);
            });
            meeting.wait();
            norm = &l.mlp_norm;
            x = prepared(l.up, rows, thread, own, normalised);
            divide(m.hidden, rows, thread, taken[layer * STAGES + 3], [&](Int begin, Int end) {
                const Int n = end - begin, other = m.hidden + begin;
                multiply(l.up, begin, end, x, rows, {inner, begin, n, l.up.bias, false}, weights);
                if (m.gated)
                    multiply(l.up, other, other + n, x, rows, {beside, other, n, l.up.bias, false}, weights);
                for (Int r = 0; r < rows; r++)
                    activate(m.activation, &inner[r * n], m.gated ? &beside[r * n] : nullptr, n,
                             &active[r * m.hidden + begin]);
            });
            meeting.wait();
            x = prepared(l.down, rows, thread, own, [&](Int r, float *) { return &active[r * m.hidden]; });
            x.wide = active;
            divide(D, rows, thread, taken[layer * STAGES + 4], [&](Int begin, Int end) {
                multiply(l.down, begin, end, x, rows, {s.x, 0, D, l.down.bias, true}, weights);
            });
            meeting.wait();
        }
        if (!s.answers) return;
        auto answer = [&](Int r, float *to) { return normalise(m.norm, s.x + (fewer ? r : s.wanted[r]) * D, D, to), to; };
        Rows x = prepared(m.head, s.answers, thread, own, answer);
        divide(m.head.outputs, s.answers, thread, taken[m.layers * STAGES], [&](Int begin, Int end) {
            multiply(m.head, begin, end, x, s.answers, {s.logits, 0, m.head.outputs, m.head.bias, false}, weights);
        });
    }
};

}  // namespace

extern "C" void use_team(decltype(Team::together) together, decltype(Team::number) number, decltype(Team::size) size) {
    team = {together, number, size};
}

extern "C" void decode_step(const Model *model, const Step *step) {
    Pass pass(*model, *step);
    on_threads(step->threads, [&](Int thread) { pass.run(thread); });
}

// Whether this is faster than torch also with hundreds of rows: on processors with vectors of sixteen numbers that
// do not multiply whole tiles, which torch knows how to use.
extern "C" Int many_rows() {
#if defined(__AVX512F__) && !defined(__AMX_BF16__)
    return 1;
#else
    return 0;
#endif
}

// A matrix of 4 bits in bfloat16, (outputs, inputs), for products of many rows.
extern "C" void unpack(const Matrix *matrix, uint16_t *to, Int threads) {
    const Int4 w(*matrix);
    on_threads(threads, [&](Int thread) {
        Int n = matrix->inputs, end = matrix->outputs * (thread + 1) / threads;
        for (Int o = matrix->outputs * thread / threads; o < end; o++)
            for (Int i = 0; i < n; i += 2 * LANES) {
                Wide part = w.wide(o, i);
                Halves halves[] = {to_bf16(part.a), to_bf16(part.b)};
                std::memcpy(to + o * n + i, halves, sizeof halves);
            }
    });
}
