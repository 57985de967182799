/* The functions of one form, F(M x M, TAPS x TAPS); winograd.c includes this once for each. */
#define T OF(TILE)
#define M OF(OUTPUTS)

INLINE long OF(tiles)(const Shape *shape) { return shape->batch * ((shape->height + M - 1) / M) * ((shape->width + M - 1) / M); }

/* Where the outputs of a tile begin. */
INLINE Place OF(place)(long tile, const Shape *shape) {
    long across = (shape->width + M - 1) / M, down = (shape->height + M - 1) / M;
    return (Place){tile / (across * down), tile / across % down * M, tile % across * M};
}

/* places (T * T, count, inputs) = BT x B of tiles first .. first + count. */
INLINE void OF(enter)(const void *x, const Shape *shape, long first, long count, float *places) {
    const long reach = (T - M) / 2, channels = shape->inputs;
#pragma omp for schedule(static)
    for (long number = 0; number < count; number++) {
        Place place = OF(place)(first + number, shape);
        for (long channel = 0; channel < channels; channel += LANES) {
            vector tile[MOST * MOST], entered[MOST * MOST];
            for (int row = 0; row < T; row++)
                for (int column = 0; column < T; column++) {
                    long y = place.top - reach + row, z = place.left - reach + column;
                    int within = y >= 0 && y < shape->height && z >= 0 && z < shape->width;
                    long at = ((place.frame * shape->height + y) * shape->width + z) * shape->pixel + channel;
                    tile[row * T + column] = within ? load(x, at, channels - channel, shape->half_inputs) : (vector){0};
                }
            transform(T, T, OF(BT), tile, entered);
            for (int p = 0; p < T * T; p++) store(places, p * apart(count, channels) + number * channels + channel, entered[p], channels - channel, 0);
        }
    }
}

/* y (+ bias) = AT sums A of the channels of a panel; sums (T * T, count, WIDTH). */
INLINE void OF(leave)(const float *sums, const float *bias, const Shape *shape, long panel, long first, long count, void *y) {
    const long channels = shape->outputs;
#pragma omp for schedule(static) nowait
    for (long number = 0; number < count; number++) {
        Place place = OF(place)(first + number, shape);
        long rows = least(M, shape->height - place.top), columns = least(M, shape->width - place.left);
        for (long channel = panel * WIDTH; channel < least(channels, (panel + 1) * WIDTH); channel += LANES) {
            vector tile[MOST * MOST], left[MOST * MOST];
            vector extra = bias ? load(bias, channel, channels - channel, 0) : (vector){0};
            for (int p = 0; p < T * T; p++) tile[p] = *(const vector *)(sums + p * apart(count, WIDTH) + number * WIDTH + channel - panel * WIDTH);
            transform(M, T, OF(AT), tile, left);
            for (long row = 0; row < rows; row++)
                for (long column = 0; column < columns; column++) {
                    long where = ((place.frame * shape->height + place.top + row) * shape->width + place.left + column) * channels + channel;
                    store(y, where, left[row * M + column] + extra, channels - channel, shape->half_outputs);
                }
        }
    }
}

/* sums (T * T, count, WIDTH) = A dy AT of the channels of a panel: the gradient of what `leave` was given. */
INLINE void OF(return_through)(const void *dy, const Shape *shape, long panel, long first, long count, float *sums) {
    const long channels = shape->outputs;
#pragma omp for schedule(static)
    for (long number = 0; number < count; number++) {
        Place place = OF(place)(first + number, shape);
        for (long channel = panel * WIDTH; channel < least(channels, (panel + 1) * WIDTH); channel += LANES) {
            vector tile[MOST * MOST], returned[MOST * MOST];
            for (int row = 0; row < M; row++)
                for (int column = 0; column < M; column++) {
                    long y = place.top + row, z = place.left + column;
                    int within = y < shape->height && z < shape->width;
                    long at = ((place.frame * shape->height + y) * shape->width + z) * channels + channel;
                    tile[row * M + column] = within ? load(dy, at, channels - channel, shape->half_outputs) : (vector){0};
                }
            transform(T, M, OF(A), tile, returned);
            for (int p = 0; p < T * T; p++) *(vector *)(sums + p * apart(count, WIDTH) + number * WIDTH + channel - panel * WIDTH) = returned[p];
        }
    }
}

void OF(convolve)(const void *x, const float *weights, const float *bias, void *y, float *scratch, const Shape *shape) {
    const long tiles = OF(tiles)(shape), inputs = shape->inputs, panels = (shape->outputs + WIDTH - 1) / WIDTH;
#pragma omp parallel num_threads(shape->threads)
    for (long first = 0; first < tiles; first += shape->block) {
        long count = least(shape->block, tiles - first);
        float *places = scratch, *both_sums = scratch + T * T * apart(shape->block, inputs);
        OF(enter)(x, shape, first, count, places);
        for (long panel = 0; panel < panels; panel++) {
            float *sums = both_sums + panel % 2 * T * T * apart(shape->block, WIDTH); /* one is filled while the other may still be read */
#pragma omp for schedule(static)
            for (int p = 0; p < T * T; p++)
                multiply_place(shape->outputs - panel * WIDTH, count, inputs, places + p * apart(count, inputs), inputs, 1,
                               weights + (p * panels + panel) * inputs * WIDTH, sums + p * apart(count, WIDTH), 0);
            OF(leave)(sums, bias, shape, panel, first, count, y);
        }
    }
}

/* dx += B back BT: the gradient of what `enter` was given; back (panels, T * T, count, WIDTH). Tiles overlap, so that each frame is added up
 * by one thread for some of its channels, in the order of its tiles. */
INLINE void OF(depart)(const float *back, const Shape *shape, long first, long count, float *dx) {
    const long reach = (T - M) / 2, channels = shape->inputs, chunks = (channels + LANES - 1) / LANES;
#pragma omp for collapse(2) schedule(static)
    for (long frame = 0; frame < shape->batch; frame++)
        for (long chunk = 0; chunk < chunks; chunk++) {
            const long channel = chunk * LANES, tiles = OF(tiles)(shape) / shape->batch, panel = channel / WIDTH;
            long number = frame * tiles < first ? 0 : frame * tiles - first;
            for (; number < least(count, (frame + 1) * tiles - first); number++) {
                Place place = OF(place)(first + number, shape);
                vector tile[MOST * MOST], departed[MOST * MOST];
                const float *from = back + panel * T * T * apart(count, WIDTH) + number * WIDTH + channel - panel * WIDTH;
                for (int p = 0; p < T * T; p++) tile[p] = *(const vector *)(from + p * apart(count, WIDTH));
                transform(T, T, OF(B), tile, departed);
                for (int row = 0; row < T; row++)
                    for (int column = 0; column < T; column++) {
                        long y = place.top - reach + row, z = place.left - reach + column;
                        if (y < 0 || y >= shape->height || z < 0 || z >= shape->width) continue;
                        long at = ((frame * shape->height + y) * shape->width + z) * channels + channel;
                        store(dx, at, load(dx, at, channels - channel, 0) + departed[row * T + column], channels - channel, 0);
                    }
            }
        }
}

/* gradient (TAPS * TAPS, panels, inputs, WIDTH) += GT sums G of a panel; sums (T * T, inputs, WIDTH). */
INLINE void OF(restore)(const float *sums, const Shape *shape, long panel, float *gradient) {
    const long panels = (shape->outputs + WIDTH - 1) / WIDTH, inputs = shape->inputs;
#pragma omp for schedule(static) nowait
    for (long input = 0; input < inputs; input++)
        for (long output = 0; output < least(WIDTH, shape->outputs - panel * WIDTH); output += LANES) {
            vector tile[MOST * MOST], restored[MOST * MOST];
            for (int p = 0; p < T * T; p++) tile[p] = *(const vector *)(sums + p * apart(inputs, WIDTH) + input * WIDTH + output);
            transform(TAPS, T, OF(GT), tile, restored);
            for (int k = 0; k < TAPS * TAPS; k++) *(vector *)(gradient + ((k * panels + panel) * inputs + input) * WIDTH + output) += restored[k];
        }
}

/* From dy: dx, which begins with zeros, and what is added to the gradient of the weights; each may be left out. A few panels are gone
 * through together, so that what they add to `back` meets in a near cache. */
void OF(go_back)(const void *x, const void *dy, const float *weights, float *dx, float *gradient, float *scratch, const Shape *shape) {
    const long tiles = OF(tiles)(shape), inputs = shape->inputs, outputs = shape->outputs;
    const long panels = (outputs + WIDTH - 1) / WIDTH, input_panels = (inputs + WIDTH - 1) / WIDTH;
#pragma omp parallel num_threads(shape->threads)
    for (long first = 0; first < tiles; first += shape->block) {
        const long count = least(shape->block, tiles - first), sum = apart(count, WIDTH), product = apart(inputs, WIDTH);
        float *places = scratch, *sums = places + T * T * apart(shape->block, inputs);
        float *products = sums + TOGETHER * T * T * apart(shape->block, WIDTH), *back = products + TOGETHER * T * T * product;
        if (gradient) OF(enter)(x, shape, first, count, places);
        for (long begin = 0; begin < panels; begin += TOGETHER) {
            const long end = least(panels, begin + TOGETHER);
            for (long panel = begin; panel < end; panel++)
                OF(return_through)(dy, shape, panel, first, count, sums + (panel - begin) * T * T * sum);
#pragma omp for schedule(static)
            for (int p = 0; p < T * T; p++) {
                for (long panel = begin; gradient && panel < end; panel++)
                    multiply_place(outputs - panel * WIDTH, inputs, count, places + p * apart(count, inputs), 1, inputs,
                                   sums + ((panel - begin) * T * T + p) * sum, products + ((panel - begin) * T * T + p) * product, 0);
                for (long to = 0; dx && to < input_panels; to++)
                    for (long panel = begin; panel < end; panel++) {
                        const long columns = least(WIDTH, outputs - panel * WIDTH);
                        float turned[WIDTH * WIDTH] __attribute__((aligned(64)));
                        turn(weights + ((p * panels + panel) * inputs + to * WIDTH) * WIDTH, least(WIDTH, inputs - to * WIDTH), columns, turned);
                        multiply_place(inputs - to * WIDTH, count, columns, sums + ((panel - begin) * T * T + p) * sum, WIDTH, 1, turned,
                                       back + (to * T * T + p) * sum, panel > 0);
                    }
            }
            for (long panel = begin; gradient && panel < end; panel++)
                OF(restore)(products + (panel - begin) * T * T * product, shape, panel, gradient);
        }
        if (dx) OF(depart)(back, shape, first, count, dx);
    }
}

/* Transformed weights, from w (outputs, inputs, TAPS, TAPS). */
void OF(transform_weights)(const float *w, float *weights, long inputs, long outputs, int threads) {
    const long panels = (outputs + WIDTH - 1) / WIDTH, area = TAPS * TAPS;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (long panel = 0; panel < panels; panel++)
        for (long input = 0; input < inputs; input++)
            for (long output = panel * WIDTH; output < (panel + 1) * WIDTH; output += LANES) {
                vector kernel[MOST * MOST], transformed[MOST * MOST];
                for (int k = 0; k < area; k++) {
                    kernel[k] = (vector){0};
                    for (long lane = 0; lane < least(LANES, outputs - output); lane++)
                        kernel[k][lane] = w[((output + lane) * inputs + input) * area + k];
                }
                transform(T, TAPS, OF(G), kernel, transformed);
                for (int p = 0; p < T * T; p++)
                    *(vector *)(weights + ((p * panels + panel) * inputs + input) * WIDTH + output - panel * WIDTH) = transformed[p];
            }
}

/* dw (outputs, inputs, TAPS, TAPS) of what `go_back` has added up. */
void OF(unpack_gradient)(const float *gradient, float *dw, long inputs, long outputs, int threads) {
    const long panels = (outputs + WIDTH - 1) / WIDTH, area = TAPS * TAPS;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long output = 0; output < outputs; output++)
        for (long input = 0; input < inputs; input++)
            for (long k = 0; k < area; k++)
                dw[(output * inputs + input) * area + k] = gradient[((k * panels + output / WIDTH) * inputs + input) * WIDTH + output % WIDTH];
}

#undef T
#undef M
