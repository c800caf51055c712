// What is done to rows of numbers besides multiplying them with matrices.

#pragma once

#include "model.hpp"

namespace {

inline Vec exponential(Vec x) {  // within 2e-7 of exp(x), relatively
    x = smaller(whole(88.f), larger(whole(-87.f), x));  // of a number that is none, what it is
    const Vec shifted = x * 1.44269504f + 12582912.f;  // 1.5 · 2^23: the last bits are the nearest whole number
    const Vec times = shifted - 12582912.f;
    Vec r = x - times * .693359375f + times * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    const Bits power = (load<Bits>(&shifted) + 127) << 23;
    return p * load<Vec>(&power);
}

// What a score is among others in a softmax, before they are divided by their sum; of -infinity nothing.
inline Vec exponential_share(Vec score, float highest, float scale) {
    return score == -INFINITY ? Vec{} : exponential((score - highest) * scale);
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

// A query or a key as it is looked up.
void make_ready(const Norm &norm, const Step &s, Int row, Int size, float *head) {
    if (norm.weight) normalise(norm, head, size, head);
    if (s.cos) turn(head, s.cos + row * (size / 2), s.sin + row * (size / 2), size / 2);
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

}  // namespace
