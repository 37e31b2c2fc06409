/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without libFuzzer, for `make check`: on its corpus in the tree, then on a few
 * inputs made of that by chance (as many as VDISK_TEST_LONG allows; VDISK_TEST_SEED chooses
 * others). A program corpus_NAME has the target fuzz_NAME and reads fuzz/corpus/NAME. Files may be
 * named as arguments instead.
 */
#include "require.h"
#include "sim_random.h"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#define INPUT_MAX  65536u
#define INPUTS_MAX 4096u

struct input {
    uint8_t *data;
    size_t size;
};

static struct input inputs[INPUTS_MAX];
static unsigned input_count;

/* False where there is nothing to read. */
static bool add_file(const char *path)
{
    FILE *file = fopen(path, "rb");

    if (!file)
        return false;
    require(input_count < INPUTS_MAX);
    struct input *input = &inputs[input_count++];

    input->data = malloc(INPUT_MAX);
    require(input->data != NULL);
    input->size = fread(input->data, 1, INPUT_MAX, file);
    fclose(file);
    return true;
}

static void add_folder(const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    char name[4096 + 256 + 2];

    while (folder && (entry = readdir(folder))) {
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.')
            (void)add_file(name);
    }
    if (folder)
        closedir(folder);
}

static void run(const uint8_t *data, size_t size)
{
    /* Memory of exactly that size, so that a sanitizer sees what reads past it. */
    uint8_t *copy = malloc(size ? size : 1);

    require(copy != NULL);
    if (size)
        memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

/* An input of the corpus with a few bytes changed, some more near its beginning, and perhaps more
 * at its end. */
static void run_changed(struct sim_rng *rng)
{
    static const uint8_t odd[] = {0, 1, 2, 0x7f, 0x80, 0xff};
    const struct input *from = &inputs[sim_rng_below(rng, input_count)];
    static uint8_t data[INPUT_MAX];
    size_t size = from->size;

    memcpy(data, from->data, size);
    if (sim_rng_chance(rng, 1, 2)) {
        size_t more = sim_rng_below(rng, 6) * 4;

        more = more < sizeof(data) - size ? more : sizeof(data) - size;
        sim_rng_fill(rng, data + size, more);
        /* Offsets are 16 bits: small ones are of more interest. */
        for (size_t i = 1; i < more; i += 4)
            data[size + i] &= sim_rng_chance(rng, 3, 4) ? 1 : 15;
        size += more;
    }
    for (uint64_t i = sim_rng_below(rng, 6); size && i > 0; i--) {
        size_t at = sim_rng_below(rng, sim_rng_chance(rng, 1, 2) && size > 64 ? 64 : size);

        data[at] = sim_rng_chance(rng, 1, 2) ? odd[sim_rng_below(rng, sizeof(odd))]
                                             : (uint8_t)sim_rng_next(rng);
    }
    run(data, size);
}

int main(int argc, char **argv)
{
    const char *source = getenv("VDISK_SRC"), *name = strrchr(argv[0], '/');
    const char *is_long = getenv("VDISK_TEST_LONG"), *seed = getenv("VDISK_TEST_SEED");
    struct sim_rng rng;
    char path[4096];

    name = name ? name + 1 : argv[0];
    require(strncmp(name, "corpus_", 7) == 0);
    snprintf(path, sizeof(path), "%s/fuzz/corpus/%s", source ? source : ".", name + 7);
    for (int i = 1; i < argc; i++)
        require(add_file(argv[i]));
    if (argc == 1)
        add_folder(path);
    for (unsigned i = 0; i < input_count; i++)
        run(inputs[i].data, inputs[i].size);
    if (input_count == 0) {
        printf("not ok - there is no corpus %s\n", path);
        return 1;
    }
    printf("ok - the %u inputs of the corpus are handled\n", input_count);
    sim_rng_seed(&rng, seed ? strtoull(seed, NULL, 0) : 1);
    unsigned rounds = is_long && strcmp(is_long, "1") == 0 ? 100000 : 300;

    for (unsigned i = 0; argc == 1 && i < rounds; i++)
        run_changed(&rng);
    if (argc == 1)
        printf("ok - %u inputs that were changed by chance are handled\n", rounds);
    for (unsigned i = 0; i < input_count; i++)
        free(inputs[i].data);
    return 0;
}
