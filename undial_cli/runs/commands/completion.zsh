# Completion of undial's command line for zsh; printed by `undial completion zsh`, for
#   eval "$(undial completion zsh)"
# It holds all words itself, so that no program runs when the tab key is pressed.

@LOOKUPS@

_undial() {
  local current=$PREFIX command=$words[2] key word folder file i
  local -a offered
  if (( CURRENT == 2 )); then
    compadd -- @COMMANDS@
    return
  fi
  if [[ $current != *=* ]]; then
    for word in ${=$(_undial_words $command)}; do
      # Sections first, as `train.`, so that the list stays short.
      [[ $word == *.*= && $current != *.* ]] && word=${word%%.*}.
      offered+=($word)
    done
    compadd -S '' -- ${(M)offered:#*[=./]}
    compadd -- ${offered:#*[=./]}
    case $command in
      @PATH_COMMANDS@) _path_files -/ ;;
    esac
    return 0
  fi
  key=${current%%=*}
  offered=(${=$(_undial_values $key)})
  for ((i = 3; i <= $#words; i++)); do
    case $words[i] in
      --config-dir | -cd) folder=$words[i+1] ;;
      --config-dir=* | -cd=*) folder=${words[i]#*=} ;;
    esac
  done
  if [[ -n $folder ]]; then  # the user's configs are options too
    offered+=($folder/$key/*.yaml(N:t:r))
  fi
  compset -P '*='
  if (( $#offered )); then
    compset -P '*,'  # what stands before it: method=undial,npo
    compadd -- $offered
  else
    _path_files
  fi
}

(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _undial undial
