// answer BUNDLE PICTURE.ppm ID...: the ids of the answer to a prompt of these ids about the picture.
#include "memvp/runtime.h"

#include <fstream>
#include <iostream>
#include <vector>

int main(int count, char** words)
try
{
    if (count < 4)
        throw memvp::InputError("give a bundle, a picture and the ids of a prompt.");
    auto const model = memvp::Model::open(words[1]);
    auto lane = model.lane();

    std::ifstream file(words[2], std::ios::binary);
    int width = 0, height = 0, most = 0;
    file.ignore(2) >> width >> height >> most;
    std::vector<char> rgb(std::size_t(3) * width * height);
    file.ignore(1).read(rgb.data(), rgb.size());

    memvp::Question question;
    question.seen = lane.see({reinterpret_cast<std::uint8_t*>(rgb.data()), height, width});
    for (auto word = words + 3; *word; ++word)
        question.ids.push_back(std::stoll(*word));
    for (auto const id : lane.answer(question, model.settings()).ids)
        std::cout << id << "\n";
}
catch (std::exception const& error)
{
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
