// The same library from C++17, with owners. Argument: the repository.
#include "check.h"

#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Free {
    void operator()(maskgit_generator *generator) const { maskgit_generator_free(generator); }
    void operator()(maskgit_images *images) const { maskgit_images_free(images); }
};
using Generator = std::unique_ptr<maskgit_generator, Free>;
using Images = std::unique_ptr<maskgit_images, Free>;

Generator open_model(const std::string &path) {
    maskgit_generator *generator = nullptr;
    OK(maskgit_open(path.c_str(), nullptr, &generator, &error));
    return Generator(generator);
}

std::vector<int64_t> tokens(maskgit_generator *generator, uint64_t seed) {
    maskgit_options options;
    maskgit_options_init(&options, sizeof options);
    options.class_name = "1";
    options.seed = seed;
    int events = 0;
    options.user_data = &events;
    options.progress = [](const maskgit_progress *, void *user_data) -> int32_t {
        ++*static_cast<int *>(user_data);
        return 0;
    };
    maskgit_images *drawn = nullptr;
    OK(maskgit_generate(generator, &options, &drawn, &error));
    Images images(drawn);
    CHECK(events > 4, "%d events", events);
    maskgit_image image{};
    OK(maskgit_images_get(images.get(), 0, &image, sizeof image, &error));
    return {image.tokens, image.tokens + image.token_count};
}

} // namespace

int main(int count, char **arguments) {
    if (count != 2) return 2;
    const std::string path = std::string(arguments[1]) + "/tests/data/tiny";
    Generator one = open_model(path), two = open_model(path);
    std::vector<int64_t> first, second;
    std::thread thread([&] { first = tokens(one.get(), 11); });
    second = tokens(two.get(), 11);
    thread.join();
    CHECK(first == second && first.size() == 16, "two generators draw the same: %zu tokens", first.size());
    CHECK(tokens(one.get(), 12) != first, "another seed draws something else");
    std::printf("test_cpp: %d checks failed\n", check_failures);
    return check_failures != 0;
}
